//! Engine outputs to predictions: windows merged, scores, thresholds. Pure; tags become entities in `text`.

use crate::domain::{
    Activation, ClassifyParameters, ClassifyPrediction, EmbedParameters, Entity, Error, Matrix, NerParameters,
    NerPrediction, Pooling, ProblemType, Result, ScoredLabel, Tag,
};
use crate::engine::{Output, ResidentAdapter};
use crate::serving::inference::names::Named;
use crate::serving::inference::read::Text;
use crate::text::{Fitted, Window, concept_entities, entities, merge, softmax_rows};

/// The score of a name from which it counts, where neither caller nor adapter says another.
const LIKELY: f32 = 0.5;

/// One input's windows and what the engine made of them.
pub(super) struct Computed {
    pub(super) fitted: Fitted,
    /// One a window.
    pub(super) outputs: Vec<Result<Output>>,
}

impl Computed {
    /// Tokens the encoder read, special ones included.
    pub(super) fn tokens(&self) -> usize {
        self.fitted.windows.iter().map(|window| window.ids.len()).sum()
    }

    fn logits(&self) -> Result<Vec<Matrix>> {
        let logits = |output: &Result<Output>| match output {
            Ok(Output::Logits(matrix)) => Ok(matrix.clone()),
            Ok(Output::Embedding(_)) => Err(Error::internal("logits were asked, an embedding was computed")),
            Err(error) => Err(error.clone()),
        };
        self.outputs.iter().map(logits).collect()
    }

    /// Of the only window.
    pub(super) fn embedding(self) -> Result<Vec<f32>> {
        vector(self.outputs.into_iter().next().unwrap_or_else(|| Err(Error::internal("a text without a window"))))
    }
}

/// Below it a vector has no direction to keep; PyTorch's `normalize` uses the same.
const NORM_MIN: f32 = 1e-12;

/// The vector of one text, from those of its windows, which are not normalized.
pub(super) fn embedding(computed: Computed, parameters: &EmbedParameters) -> Result<Vec<f32>> {
    let Computed { fitted, outputs } = computed;
    let vectors = outputs.into_iter().map(vector).collect::<Result<Vec<_>>>()?;
    let weight = |window: &Window| match parameters.pooling {
        Pooling::Mean => window.ids.len() as f32,
        Pooling::Cls => 1.0,
    };
    let mut mean = weighted_mean(&fitted.windows.iter().map(weight).collect::<Vec<_>>(), vectors)?;
    if parameters.normalize {
        let norm = mean.iter().map(|x| x * x).sum::<f32>().sqrt().max(NORM_MIN);
        mean.iter_mut().for_each(|x| *x /= norm);
    }
    Ok(mean)
}

fn weighted_mean(weights: &[f32], vectors: Vec<Vec<f32>>) -> Result<Vec<f32>> {
    let mut vectors = vectors.into_iter();
    let mut mean = vectors.next().ok_or_else(|| Error::internal("a text without a window"))?;
    if weights.len() == 1 {
        return Ok(mean);
    }
    mean.iter_mut().for_each(|x| *x *= weights[0]);
    for (vector, weight) in vectors.zip(&weights[1..]) {
        mean.iter_mut().zip(vector).for_each(|(sum, x)| *sum += weight * x);
    }
    let sum: f32 = weights.iter().sum();
    mean.iter_mut().for_each(|x| *x /= sum);
    Ok(mean)
}

fn vector(output: Result<Output>) -> Result<Vec<f32>> {
    match output? {
        Output::Embedding(vector) => Ok(vector),
        Output::Logits(_) => Err(Error::internal("an embedding was asked, logits were computed")),
    }
}

pub(super) fn ner(
    text: &Text,
    computed: &Computed,
    adapter: &ResidentAdapter,
    named: Option<&Named>,
    parameters: &NerParameters,
) -> Result<NerPrediction> {
    let logits = merge(&computed.fitted, &computed.logits()?);
    Ok(NerPrediction {
        entities: match named {
            Some(named) => named_entities(text, logits, adapter, named, parameters),
            None => labelled_entities(text, logits, adapter, parameters),
        },
        tokens: computed.tokens(),
        windows: computed.fitted.windows.len(),
        truncated: computed.fitted.truncated,
    })
}

fn labelled_entities(
    text: &Text,
    logits: Matrix,
    adapter: &ResidentAdapter,
    parameters: &NerParameters,
) -> Vec<Entity> {
    let source = text.input.source_text();
    let mut entities = entities(&source, &text.encoding, &softmax_rows(logits), &adapter.labels, parameters);
    let thresholds = &adapter.card.thresholds;
    entities.retain(|entity| {
        let threshold = thresholds.get(&entity.label).or_else(|| thresholds.get(entity_type(entity)));
        threshold.is_none_or(|&threshold| entity.score >= threshold)
    });
    entities
}

/// By the caller's threshold, else the adapter's own, else where a name is as likely as not.
fn named_entities(
    text: &Text,
    logits: Matrix,
    adapter: &ResidentAdapter,
    named: &Named,
    parameters: &NerParameters,
) -> Vec<Entity> {
    let asked = (parameters.threshold > 0.0).then_some(parameters.threshold);
    let threshold = asked.or(adapter.card.concept_threshold()).unwrap_or(LIKELY);
    let scores = activate(logits, Activation::Sigmoid);
    concept_entities(&text.input.source_text(), &text.encoding, &scores, &named.names, threshold, parameters)
}

/// `PER`, also of the tag `B-PER`.
pub(super) fn entity_type(entity: &Entity) -> &str {
    Tag::parse(&entity.label).label().unwrap_or(&entity.label)
}

pub(super) fn classify(
    computed: &Computed,
    adapter: &ResidentAdapter,
    named: Option<&Named>,
    parameters: &ClassifyParameters,
) -> Result<ClassifyPrediction> {
    let card = &adapter.card;
    let labels = named.map_or(adapter.labels.as_slice(), |named| &named.names);
    let own = || match named {
        Some(_) => Activation::Softmax,
        None => own_activation(card.problem_type, labels.len()),
    };
    let scores = mean_scores(&computed.logits()?, parameters.activation.unwrap_or_else(own))?;
    let threshold = |label: &str| card.thresholds.get(label).copied().filter(|_| named.is_none());
    Ok(ClassifyPrediction {
        labels: best_first(labels, &scores, parameters, threshold),
        tokens: computed.tokens(),
        windows: computed.fitted.windows.len(),
        truncated: computed.fitted.truncated,
    })
}

/// As Hugging Face's pipeline chooses it: one score alone cannot compete.
fn own_activation(problem: ProblemType, labels: usize) -> Activation {
    match problem {
        ProblemType::MultiLabel => Activation::Sigmoid,
        ProblemType::SingleLabel if labels == 1 => Activation::Sigmoid,
        ProblemType::SingleLabel => Activation::Softmax,
    }
}

/// A long text's score for a label is the mean of its windows' scores.
fn mean_scores(windows: &[Matrix], activation: Activation) -> Result<Vec<f32>> {
    let labels = windows.first().map(Matrix::columns).ok_or_else(|| Error::internal("a text without a window"))?;
    let mut sums = vec![0.0; labels];
    for window in windows {
        let scores = activate(window.clone(), activation);
        sums.iter_mut().zip(scores.data()).for_each(|(sum, score)| *sum += score);
    }
    sums.iter_mut().for_each(|sum| *sum /= windows.len() as f32);
    Ok(sums)
}

fn activate(logits: Matrix, activation: Activation) -> Matrix {
    match activation {
        Activation::None => logits,
        Activation::Softmax => softmax_rows(logits),
        Activation::Sigmoid => {
            let scores = logits.data().iter().map(|&logit| 1.0 / (1.0 + (-logit).exp())).collect();
            Matrix::new(logits.columns(), scores)
        }
    }
}

/// Labels that reach the request's threshold and the adapter's own, best first, at most `top_k`; equal scores in the head's order.
fn best_first(
    labels: &[String],
    scores: &[f32],
    parameters: &ClassifyParameters,
    threshold: impl Fn(&str) -> Option<f32>,
) -> Vec<ScoredLabel> {
    // The default threshold of 0 keeps everything, raw logits below it too.
    let asked = (parameters.threshold > 0.0).then_some(parameters.threshold);
    let reaches = |label: &str, score: f32| asked.into_iter().chain(threshold(label)).all(|least| score >= least);
    let mut best: Vec<ScoredLabel> = labels
        .iter()
        .zip(scores)
        .filter(|&(label, &score)| reaches(label, score))
        .map(|(label, &score)| ScoredLabel { label: label.clone(), score })
        .collect();
    best.sort_by(|a, b| b.score.total_cmp(&a.score));
    best.truncate(parameters.top_k.unwrap_or(usize::MAX));
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(scores: &[f32], parameters: ClassifyParameters, own: Option<f32>, expected: &str) {
        let labels = ["a", "b", "c"].map(str::to_owned);
        let best = best_first(&labels, scores, &parameters, |label| own.filter(|_| label == "b"));
        assert_eq!(best.iter().map(|l| l.label.as_str()).collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn labels_come_best_first_above_their_thresholds() {
        let default = ClassifyParameters::default;
        check(&[0.2, 0.5, 0.3], default(), None, "b c a");
        check(&[0.2, 0.2, 0.2], default(), None, "a b c");
        check(&[-3.0, -1.0, -2.0], default(), None, "b c a");
        check(&[0.2, 0.5, 0.3], ClassifyParameters { top_k: Some(1), ..default() }, None, "b");
        check(&[0.2, 0.5, 0.3], ClassifyParameters { threshold: 0.3, ..default() }, None, "b c");
        check(&[0.2, 0.5, 0.3], default(), Some(0.6), "c a");
        check(&[0.2, 0.5, 0.3], ClassifyParameters { threshold: 0.9, ..default() }, None, "");
    }

    #[test]
    fn windows_of_one_text_are_averaged_after_the_activation() {
        let windows = [Matrix::new(2, vec![0.0, 2.0]), Matrix::new(2, vec![0.0, -2.0])];
        assert_eq!(mean_scores(&windows, Activation::None).unwrap(), [0.0, 0.0]);
        let sigmoid = mean_scores(&windows, Activation::Sigmoid).unwrap();
        assert!(sigmoid.iter().all(|score| (score - 0.5).abs() < 1e-6), "{sigmoid:?}");
        let softmax = mean_scores(&windows, Activation::Softmax).unwrap();
        assert!((softmax.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{softmax:?}");
    }

    #[test]
    fn a_long_texts_vector_is_the_mean_of_its_windows_by_their_tokens() {
        let window = |tokens: usize| Window { ids: vec![0; tokens], type_ids: Vec::new(), tokens: Vec::new() };
        let computed = || Computed {
            fitted: Fitted { windows: vec![window(3), window(1)], truncated: false },
            outputs: vec![Ok(Output::Embedding(vec![4.0, 0.0])), Ok(Output::Embedding(vec![0.0, 16.0]))],
        };
        let raw = EmbedParameters { normalize: false, ..EmbedParameters::default() };
        for (parameters, wanted) in [
            (raw.clone(), [3.0, 4.0]),
            (EmbedParameters { pooling: Pooling::Cls, ..raw }, [2.0, 8.0]),
            (EmbedParameters::default(), [0.6, 0.8]),
        ] {
            assert_eq!(embedding(computed(), &parameters).unwrap(), wanted, "{parameters:?}");
        }
    }

    #[test]
    fn the_activation_is_the_problems_own() {
        assert_eq!(own_activation(ProblemType::SingleLabel, 2), Activation::Softmax);
        assert_eq!(own_activation(ProblemType::SingleLabel, 1), Activation::Sigmoid);
        assert_eq!(own_activation(ProblemType::MultiLabel, 2), Activation::Sigmoid);
    }
}
