//! Engine outputs to predictions: windows merged, scores, thresholds. Pure; tags become entities in `text`.

use crate::domain::{
    Activation, ClassifyParameters, ClassifyPrediction, Entity, Error, LabelSet, Matrix, NerParameters, NerPrediction,
    ProblemType, Result, ScoredLabel, Tag,
};
use crate::engine::{Output, ResidentAdapter};
use crate::serving::inference::read::Text;
use crate::text::{Fitted, entities, merge, softmax_rows};

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
        match self.outputs.into_iter().next() {
            Some(Ok(Output::Embedding(vector))) => Ok(vector),
            Some(Err(error)) => Err(error),
            _ => Err(Error::internal("an embedding was asked, logits were computed")),
        }
    }
}

pub(super) fn ner(
    text: &Text,
    computed: &Computed,
    adapter: &ResidentAdapter,
    parameters: &NerParameters,
) -> Result<NerPrediction> {
    let scores = softmax_rows(merge(&computed.fitted, &computed.logits()?));
    let source = text.input.source_text();
    let mut entities = entities(&source, &text.encoding, &scores, &adapter.labels, parameters);
    let thresholds = &adapter.card.thresholds;
    entities.retain(|entity| {
        let threshold = thresholds.get(&entity.label).or_else(|| thresholds.get(entity_type(entity)));
        threshold.is_none_or(|&threshold| entity.score >= threshold)
    });
    Ok(NerPrediction {
        entities,
        tokens: computed.tokens(),
        windows: computed.fitted.windows.len(),
        truncated: computed.fitted.truncated,
    })
}

/// `PER`, also of the tag `B-PER`.
pub(super) fn entity_type(entity: &Entity) -> &str {
    Tag::parse(&entity.label).label().unwrap_or(&entity.label)
}

pub(super) fn classify(
    computed: &Computed,
    adapter: &ResidentAdapter,
    parameters: &ClassifyParameters,
) -> Result<ClassifyPrediction> {
    let (card, labels) = (&adapter.card, &adapter.labels);
    let activation = parameters.activation.unwrap_or_else(|| own_activation(card.problem_type, labels));
    let scores = mean_scores(&computed.logits()?, activation)?;
    let threshold = |label: &str| card.thresholds.get(label).copied();
    Ok(ClassifyPrediction {
        labels: best_first(labels, &scores, parameters, threshold),
        tokens: computed.tokens(),
        windows: computed.fitted.windows.len(),
        truncated: computed.fitted.truncated,
    })
}

/// As Hugging Face's pipeline chooses it: one score alone cannot compete.
fn own_activation(problem: ProblemType, labels: &LabelSet) -> Activation {
    match problem {
        ProblemType::MultiLabel => Activation::Sigmoid,
        ProblemType::SingleLabel if labels.len() == 1 => Activation::Sigmoid,
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
    labels: &LabelSet,
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
        .map(|(label, &score)| ScoredLabel { label: label.to_owned(), score })
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
        let labels = LabelSet::new(["a", "b", "c"].map(str::to_owned).to_vec()).unwrap();
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
    fn the_activation_is_the_problems_own() {
        let labels = |n| LabelSet::new((0..n).map(|i| i.to_string()).collect()).unwrap();
        assert_eq!(own_activation(ProblemType::SingleLabel, &labels(2)), Activation::Softmax);
        assert_eq!(own_activation(ProblemType::SingleLabel, &labels(1)), Activation::Sigmoid);
        assert_eq!(own_activation(ProblemType::MultiLabel, &labels(2)), Activation::Sigmoid);
    }
}
