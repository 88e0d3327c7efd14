//! The data of a run as both objectives read it: entity types by name across all NER sets, pairs of texts that belong together,
//! texts by class. Leaves which rows come when to `draw`.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::domain::{Digest, Error, Family, Result};
use crate::text::spoken_name;
use crate::training::dataset::{Example, Split};

/// Labels of pairs that belong together, as data sets spell them.
const BELONG: [&str; 7] = ["entailment", "paraphrase", "duplicate", "positive", "true", "yes", "1"];

/// A pair with a score belongs together from this share of the highest score of its set.
const SCORE_SHARE: f32 = 0.8;

/// One NER row of so many is held out to calibrate the threshold.
const HOLD_OUT_EVERY: usize = 25;
/// So that a few large sets do not decide it.
const HELD_OUT_OF_A_SET_MAX: usize = 40;

/// A data set of the mix.
#[derive(Clone, Debug)]
pub struct PoolSet {
    pub name: String,
    pub weight: f64,
    pub split: Split,
}

/// One NER set.
pub(super) struct NerSet {
    pub weight: f64,
    /// Examples with words and tags.
    pub rows: Vec<Example>,
    /// Its types: the tag's own name → the concept.
    pub concepts: BTreeMap<String, usize>,
}

/// All NER sets. A concept is a type's spoken name: types that are called alike are one concept.
#[derive(Default)]
pub(super) struct NerPool {
    pub sets: Vec<NerSet>,
    /// Spoken names.
    pub concepts: Vec<String>,
}

/// One set of the contrast between texts.
pub(super) struct TextSet {
    pub weight: f64,
    pub kind: TextKind,
}

pub(super) enum TextKind {
    /// Pairs that belong together.
    Pairs(Vec<(String, String)>),
    /// Texts of each class; only classes with two texts at least.
    Classes(Vec<ClassTexts>),
}

pub(super) struct ClassTexts {
    /// Spoken.
    pub name: String,
    pub texts: Vec<String>,
}

impl TextSet {
    pub(super) fn rows(&self) -> usize {
        match &self.kind {
            TextKind::Pairs(pairs) => pairs.len(),
            TextKind::Classes(classes) => classes.iter().map(|class| class.texts.len()).sum(),
        }
    }
}

/// What a run trains on.
#[derive(Default)]
pub(super) struct Pool {
    pub ner: NerPool,
    pub texts: Vec<TextSet>,
    /// Of all rows, by set: what the provenance names.
    pub digests: Vec<(String, Digest)>,
    /// NER rows that train nothing: the threshold is calibrated on them. (set, row)
    pub calibration: Vec<(usize, Example)>,
}

impl Pool {
    /// Some NER rows of each set are kept for calibration. `unprocessable` for a set that has nothing to learn from.
    pub(super) fn new(families: &[Family], ner: Vec<PoolSet>, classify: Vec<PoolSet>) -> Result<Self> {
        let mut pool = Self::default();
        let has = |family| families.contains(&family);
        if has(Family::Ner) {
            wanted(&ner, Family::Ner)?;
            ner.into_iter().try_for_each(|set| pool.add_ner(set))?;
        }
        if has(Family::Classify) {
            wanted(&classify, Family::Classify)?;
            classify.into_iter().try_for_each(|set| pool.add_texts(set))?;
        }
        Ok(pool)
    }

    fn add_ner(&mut self, set: PoolSet) -> Result<()> {
        self.digests.push((set.name.clone(), digest_of(&set.split)));
        let mut concepts = BTreeMap::new();
        for label in set.split.examples.iter().flat_map(Example::labels) {
            if !concepts.contains_key(label) {
                concepts.insert(label.to_owned(), self.ner.concept(label));
            }
        }
        if concepts.is_empty() || !set.split.examples.iter().all(|row| matches!(row, Example::Ner { .. })) {
            return Err(Error::unprocessable(format!("dataset {}: rows with entities are wanted", set.name)));
        }
        let at = self.ner.sets.len();
        let mut rows = Vec::with_capacity(set.split.examples.len());
        let mut held = 0;
        for (row, example) in set.split.examples.into_iter().enumerate() {
            if row % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1 && held < HELD_OUT_OF_A_SET_MAX {
                self.calibration.push((at, example));
                held += 1;
            } else {
                rows.push(example);
            }
        }
        self.ner.sets.push(NerSet { weight: set.weight, rows, concepts });
        Ok(())
    }

    fn add_texts(&mut self, set: PoolSet) -> Result<()> {
        self.digests.push((set.name.clone(), digest_of(&set.split)));
        let is_pairs = matches!(set.split.examples.first(), Some(Example::Pair { .. }));
        let kind = if is_pairs { pairs(set.split) } else { classes(set.split) };
        let text_set = TextSet { weight: set.weight, kind };
        if text_set.rows() < 2 {
            return Err(Error::unprocessable(format!(
                "dataset {}: two pairs that belong together, or two classes of two texts each, are wanted",
                set.name
            )));
        }
        self.texts.push(text_set);
        Ok(())
    }
}

fn wanted(sets: &[PoolSet], family: Family) -> Result<()> {
    match sets.iter().find(|set| !(set.weight.is_finite() && set.weight > 0.0)) {
        Some(set) => {
            Err(Error::invalid(format!("dataset {}: weight {} is not a positive number", set.name, set.weight)))
        }
        None if sets.is_empty() => Err(Error::invalid(format!("{family}.datasets: at least one is wanted"))),
        None => Ok(()),
    }
}

impl NerPool {
    fn concept(&mut self, label: &str) -> usize {
        let name = spoken_name(label);
        match self.concepts.iter().position(|known| *known == name) {
            Some(concept) => concept,
            None => {
                self.concepts.push(name);
                self.concepts.len() - 1
            }
        }
    }
}

fn pairs(split: Split) -> TextKind {
    let scores =
        || split.examples.iter().filter_map(|row| if let Example::Pair { score, .. } = row { *score } else { None });
    let highest = scores().fold(f32::NEG_INFINITY, f32::max);
    let belongs = |label: &Option<String>, score: Option<f32>| match (label, score) {
        (Some(label), _) => BELONG.contains(&label.to_lowercase().as_str()),
        (None, Some(score)) => score >= SCORE_SHARE * highest,
        (None, None) => true,
    };
    let kept = split.examples.into_iter().filter_map(|row| match row {
        Example::Pair { a, b, label, score } => belongs(&label, score).then_some((a, b)),
        _ => None,
    });
    TextKind::Pairs(kept.collect())
}

fn classes(split: Split) -> TextKind {
    let mut classes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in split.examples {
        let Example::Classify { text, text_pair: None, labels } = row else { continue };
        if let [label] = labels.as_slice() {
            classes.entry(label.clone()).or_default().push(text);
        }
    }
    classes.retain(|_, texts| texts.len() > 1);
    if classes.len() < 2 {
        return TextKind::Classes(Vec::new());
    }
    let class = |(label, texts): (String, Vec<String>)| ClassTexts { name: spoken_name(&label), texts };
    TextKind::Classes(classes.into_iter().map(class).collect())
}

fn digest_of(split: &Split) -> Digest {
    Digest::from_sha256(&Sha256::digest(split.to_jsonl()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ner(name: &str, rows: &[(&str, &str)]) -> PoolSet {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let row = |&(text, tags): &(&str, &str)| Example::Ner { words: words(text), tags: words(tags) };
        let split = Split { examples: rows.iter().map(row).collect(), multi_label: false };
        PoolSet { name: name.to_owned(), weight: 1.0, split }
    }

    fn pair(label: Option<&str>, score: Option<f32>) -> Example {
        Example::Pair { a: "a".to_owned(), b: "b".to_owned(), label: label.map(str::to_owned), score }
    }

    #[test]
    fn types_called_alike_are_one_concept_across_sets() {
        let sets = vec![
            ner("one", &[("Ann in Rome", "B-PER O B-LOC")]),
            ner("two", &[("Bob sings", "B-person O"), ("so what", "O B-creative_work")]),
        ];
        let pool = Pool::new(&[Family::Ner], sets, Vec::new()).unwrap();
        assert_eq!(pool.ner.concepts, ["person", "location", "creative work"]);
        assert_eq!(pool.ner.sets[1].concepts.values().copied().collect::<Vec<_>>(), [2, 0]);
    }

    #[test]
    fn only_pairs_that_belong_together_are_kept() {
        let check = |rows: Vec<Example>, expected: usize| match pairs(Split { examples: rows, multi_label: false }) {
            TextKind::Pairs(pairs) => assert_eq!(pairs.len(), expected),
            TextKind::Classes(_) => panic!("pairs were given"),
        };
        check(vec![pair(None, None); 3], 3);
        check(
            vec![pair(Some("entailment"), Some(1.0)), pair(Some("not_entailment"), None), pair(Some("Neutral"), None)],
            1,
        );
        check(vec![pair(None, Some(5.0)), pair(None, Some(4.0)), pair(None, Some(3.9))], 2);
    }

    #[test]
    fn a_mix_that_teaches_nothing_is_refused_by_name() {
        let empty = ner("blank", &[("so what", "O O")]);
        let refused = |ner: Vec<PoolSet>, classify: Vec<PoolSet>| {
            Pool::new(&[Family::Ner, Family::Classify], ner, classify).err().unwrap().message().to_owned()
        };
        assert!(refused(vec![empty], Vec::new()).contains("dataset blank"));
        assert!(refused(Vec::new(), Vec::new()).contains("ner.datasets"));
        let good = || vec![ner("one", &[("Ann", "B-PER")])];
        assert!(refused(good(), Vec::new()).contains("classify.datasets"));
        let one_pair = Split { examples: vec![pair(None, None)], multi_label: false };
        let one_pair = PoolSet { name: "few".to_owned(), weight: 1.0, split: one_pair };
        assert!(refused(good(), vec![one_pair]).contains("dataset few"));
        let heavy = PoolSet { weight: 0.0, ..ner("none", &[("Ann", "B-PER")]) };
        assert!(refused(vec![heavy], Vec::new()).contains("weight 0"));
    }

    #[test]
    fn some_rows_of_each_ner_set_are_held_out() {
        let rows = vec![("Ann", "B-PER"); 2000];
        let pool = Pool::new(&[Family::Ner], vec![ner("one", &rows), ner("two", &rows[..60])], Vec::new()).unwrap();
        let held = |set| pool.calibration.iter().filter(|(at, _)| *at == set).count();
        assert_eq!((held(0), held(1)), (40, 2));
        assert_eq!((pool.ner.sets[0].rows.len(), pool.ner.sets[1].rows.len()), (1960, 58));
    }
}
