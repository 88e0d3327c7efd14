//! The score from which a token is of a concept: the one with the best entity F1 on rows of the pool that trained nothing.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use crate::domain::Result;
use crate::model::{Mode, TrainableEncoder};
use crate::training::pre_finetune::pool::Pool;
use crate::training::pre_finetune::primary::Primary;
use crate::training::pre_finetune::read::{Reader, Sequence, TaggedRow};
use crate::training::pre_finetune::shard::Shard;
use crate::training::workers::{Run, Steer, Workers};

/// Thresholds that are tried: hundredths.
const STEPS: u32 = 100;

/// Rows of one forward pass.
const ROWS_A_PIECE: usize = 32;

/// What calibration found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Calibrated {
    pub threshold: f32,
    /// Entity F1 over all held-out rows at that threshold, types given by name.
    pub f1: f64,
    pub rows: usize,
}

/// A word's best concept, and its score in 0..=1.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Best {
    concept: usize,
    score: f32,
}

/// One row: each word's concept, and the best of those it was compared with.
struct Scored {
    gold: Vec<Option<usize>>,
    best: Vec<Best>,
}

/// With the primary's variables and the encoder's weights as they are.
pub(super) fn calibrate(
    encoder: &TrainableEncoder,
    primary: &Primary,
    reader: &Reader<'_>,
    pool: &Pool,
    workers: Workers,
    steer: Steer<'_>,
) -> Run<Calibrated> {
    let mut of_set: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    pool.calibration.iter().enumerate().for_each(|(row, (set, _))| of_set.entry(*set).or_default().push(row));
    let chunks = |(set, rows): (usize, Vec<usize>)| {
        rows.chunks(ROWS_A_PIECE).map(|rows| (set, rows.to_vec())).collect::<Vec<_>>()
    };
    let pieces: Vec<(usize, Vec<usize>)> = of_set.into_iter().flat_map(chunks).collect();
    let scored = workers.map(pieces.len(), steer, |piece| {
        let (set, rows) = &pieces[piece];
        score(encoder, primary, reader, pool, *set, rows)
    })?;
    let scored: Vec<Scored> = scored.into_iter().flatten().collect();
    let (threshold, f1) = best_threshold(&scored);
    Ok(Calibrated { threshold, f1, rows: scored.len() })
}

/// `rows` of one set against the set's own types.
fn score(
    encoder: &TrainableEncoder,
    primary: &Primary,
    reader: &Reader<'_>,
    pool: &Pool,
    set: usize,
    rows: &[usize],
) -> Result<Vec<Scored>> {
    let set = &pool.ner.sets[set];
    let concepts: Vec<usize> =
        set.concepts.values().copied().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    let read = rows.iter().map(|&row| {
        let concept = |label: &str| set.concepts.get(label).copied();
        reader.tagged(&pool.calibration[row].1, concept, |_| 0)
    });
    let read: Vec<TaggedRow> = read.collect::<Result<_>>()?;
    let gold: Vec<Vec<Option<usize>>> =
        read.iter().map(|row| row.tokens.iter().map(|(_, concept)| *concept).collect()).collect();
    let names = concepts.iter().map(|&concept| reader.name(&pool.ner.concepts[concept]));
    let sequences = read.into_iter().map(|row| Ok(row.into_sequence())).chain(names);
    let sequences: Vec<Sequence> = sequences.collect::<Result<_>>()?;
    let shard = Shard::new(sequences.iter());
    let width = encoder.origin().config().hidden_size;
    let traced = encoder.trace(&shard.packed, primary.lora(), Mode::Eval, None)?;
    let compared = shard.gather(&traced.hidden().flatten_all()?.to_vec1::<f32>()?, width);
    let scores = primary.scores(&compared, width)?;
    let best = |row: &[f32]| {
        let at = (0..row.len()).max_by(|&i, &j| row[i].total_cmp(&row[j])).unwrap_or(0);
        Best { concept: concepts[at], score: 1.0 / (1.0 + (-row[at]).exp()) }
    };
    let mut best = scores.chunks_exact(concepts.len()).map(best);
    Ok(gold.into_iter().map(|gold| Scored { best: best.by_ref().take(gold.len()).collect(), gold }).collect())
}

/// The threshold with the best micro F1, and that F1; the lowest of equals.
fn best_threshold(scored: &[Scored]) -> (f32, f64) {
    let gold: Vec<HashSet<(Range<usize>, usize)>> = scored.iter().map(|row| spans(row.gold.iter().copied())).collect();
    let entities: usize = gold.iter().map(HashSet::len).sum();
    let f1_at = |threshold: f32| {
        let (mut hits, mut found) = (0, 0);
        for (row, gold) in scored.iter().zip(&gold) {
            let over = row.best.iter().map(|best| (best.score >= threshold).then_some(best.concept));
            let predicted = spans(over);
            hits += predicted.intersection(gold).count();
            found += predicted.len();
        }
        2.0 * hits as f64 / (found + entities).max(1) as f64
    };
    let all = (1..STEPS).map(|step| step as f32 / STEPS as f32);
    all.map(|threshold| (threshold, f1_at(threshold)))
        .fold((0.5, 0.0), |best, next| if next.1 > best.1 { next } else { best })
}

/// Runs of one concept: words that follow each other are one entity, as zero-shot decoding joins them.
fn spans(concepts: impl Iterator<Item = Option<usize>>) -> HashSet<(Range<usize>, usize)> {
    let mut spans: Vec<(Range<usize>, usize)> = Vec::new();
    for (word, concept) in concepts.enumerate() {
        let Some(concept) = concept else { continue };
        match spans.last_mut() {
            Some((range, last)) if range.end == word && *last == concept => range.end = word + 1,
            _ => spans.push((word..word + 1, concept)),
        }
    }
    spans.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(words: &[(Option<usize>, usize, f32)]) -> Scored {
        Scored {
            gold: words.iter().map(|word| word.0).collect(),
            best: words.iter().map(|&(_, concept, score)| Best { concept, score }).collect(),
        }
    }

    #[test]
    fn the_threshold_parts_entities_from_the_rest() {
        let rows =
            [row(&[(Some(1), 1, 0.62), (Some(1), 1, 0.7), (None, 1, 0.3)]), row(&[(None, 2, 0.45), (Some(2), 2, 0.6)])];
        let (threshold, f1) = best_threshold(&rows);
        assert!((0.45..0.61).contains(&threshold) && f1 == 1.0, "{threshold} {f1}");
        let wrong = [row(&[(Some(1), 2, 0.9)])];
        assert_eq!(best_threshold(&wrong), (0.5, 0.0));
    }
}
