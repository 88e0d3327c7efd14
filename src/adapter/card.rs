//! `trunkline.json`: what PEFT's format has no place for. Leaves whether it fits the weights to `bundle`.

use std::collections::{BTreeMap, HashSet};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::disk::without_mark;
use crate::domain::{Digest, Error, Family, HeadForm, LabelSet, ProblemType, Problems, Result, Tag};

/// `trunkline.json` in bytes: 4096 labels of a few hundred, and the report of a training run.
const CARD_BYTES_MAX: usize = 4 << 20;

/// The shortest sequences an adapter may read, in tokens, as training wants them: special tokens around a pair (4 in RoBERTa) and a few
/// of each text. Less would read nothing of any text.
const MAX_LENGTH_MIN: usize = 8;

/// The key of the one threshold of a head that compares with names.
const ANY_NAME: &str = "*";

/// `trunkline.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterCard {
    pub family: Family,
    /// What the head gives scores for.
    pub head: HeadForm,
    /// In head order; none for a head that compares with names.
    pub labels: Vec<String>,
    pub problem_type: ProblemType,
    pub backbone_fingerprint: Digest,
    /// Tokens, special ones included.
    pub max_length: usize,
    /// `cls` (the architecture's own) or `mean`.
    pub pooling: String,
    /// Label → score below which it is not reported; [`ANY_NAME`] stands for every name that a head may be given.
    pub thresholds: BTreeMap<String, f32>,
    /// Data, seed, metrics, job: shown as it is.
    pub training: Option<serde_json::Value>,
}

/// The file, keys in this order.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct CardFile {
    family: String,
    #[serde(default = "labels", skip_serializing_if = "is_labels")]
    head: String,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default = "single_label")]
    problem_type: String,
    backbone_fingerprint: String,
    max_length: usize,
    #[serde(default = "cls")]
    pooling: String,
    #[serde(default)]
    thresholds: BTreeMap<String, f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    training: Option<serde_json::Value>,
}

fn labels() -> String {
    HeadForm::Labels.as_str().to_owned()
}

fn is_labels(head: &str) -> bool {
    head == HeadForm::Labels.as_str()
}

fn single_label() -> String {
    ProblemType::SingleLabel.as_str().to_owned()
}

fn cls() -> String {
    "cls".to_owned()
}

impl AdapterCard {
    /// `unprocessable` with every field that is wrong.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        if json.len() > CARD_BYTES_MAX {
            return Err(Error::unprocessable(format!(
                "trunkline.json has {} bytes; at most {CARD_BYTES_MAX} are read",
                json.len()
            )));
        }
        let file: CardFile = serde_json::from_slice(without_mark(json))
            .map_err(|e| Error::unprocessable(format!("trunkline.json: {e}")))?;
        Self::from_file(file)
    }

    fn from_file(file: CardFile) -> Result<Self> {
        let mut problems = Problems::new();
        let family = parse::<Family>("family", &file.family, &mut problems);
        let problem_type = parse::<ProblemType>("problem_type", &file.problem_type, &mut problems);
        let fingerprint = parse::<Digest>("backbone_fingerprint", &file.backbone_fingerprint, &mut problems);
        let head = parse::<HeadForm>("head", &file.head, &mut problems);
        problems.extend(head_problem(head.unwrap_or_default(), family, &file));
        if file.max_length < MAX_LENGTH_MIN {
            let (got, min) = (file.max_length, MAX_LENGTH_MIN);
            problems.push(format_args!("max_length: {got} tokens leave no room for text; at least {min} are wanted"));
        }
        if !matches!(&*file.pooling, "cls" | "mean") {
            problems.push(format_args!("pooling: {:?} is neither \"cls\" nor \"mean\"", file.pooling));
        }
        check_thresholds(head, &file, &mut problems);
        let (Some(family), Some(head), Some(problem_type), Some(backbone_fingerprint), true) =
            (family, head, problem_type, fingerprint, problems.is_empty())
        else {
            return Err(Error::unprocessable("trunkline.json is not a card we can read").with_problems(problems));
        };
        let CardFile { labels, max_length, pooling, thresholds, training, .. } = file;
        Ok(Self { family, head, labels, problem_type, backbone_fingerprint, max_length, pooling, thresholds, training })
    }

    /// The score from which a token is of a named concept, calibrated on data held out of training; a head that compares
    /// with names may have one.
    pub fn concept_threshold(&self) -> Option<f32> {
        self.thresholds.get(ANY_NAME).copied().filter(|_| self.head != HeadForm::Labels)
    }

    /// The same card with that threshold.
    #[must_use]
    pub fn with_concept_threshold(mut self, threshold: f32) -> Self {
        self.thresholds.insert(ANY_NAME.to_owned(), threshold);
        self
    }

    /// The same card gives the same bytes.
    pub fn to_json(&self) -> Vec<u8> {
        let file = CardFile {
            family: self.family.as_str().to_owned(),
            head: self.head.as_str().to_owned(),
            labels: self.labels.clone(),
            problem_type: self.problem_type.as_str().to_owned(),
            backbone_fingerprint: self.backbone_fingerprint.as_str().to_owned(),
            max_length: self.max_length,
            pooling: self.pooling.clone(),
            thresholds: self.thresholds.clone(),
            training: self.training.clone(),
        };
        serde_json::to_vec_pretty(&file).expect("strings, numbers and JSON values have a text")
    }
}

/// Each is of a label, and a probability.
fn check_thresholds(head: Option<HeadForm>, file: &CardFile, problems: &mut Problems) {
    let known: HashSet<&str> = match head {
        Some(HeadForm::Concepts | HeadForm::Similarity) => [ANY_NAME].into(),
        // of tags the type stands for both of its tags
        _ => file.labels.iter().flat_map(|label| [Some(label.as_str()), Tag::parse(label).label()]).flatten().collect(),
    };
    for (label, threshold) in &file.thresholds {
        if !known.contains(label.as_str()) || !(0.0..=1.0).contains(threshold) {
            problems.push(format_args!("thresholds: {label:?} is no label, or its {threshold} is not in 0..=1"));
        }
    }
}

/// Labels and family as this form of head wants them.
fn head_problem(head: HeadForm, family: Option<Family>, file: &CardFile) -> Option<String> {
    let Some(wanted) = head.family() else {
        return LabelSet::new(file.labels.clone()).err().map(|e| format!("labels: {}", e.message()));
    };
    let fits = file.labels.is_empty() && family.is_none_or(|family| family == wanted) && file.pooling == "mean";
    (!fits).then(|| {
        let head = head.as_str();
        format!("head: {head:?} wants family {wanted}, pooling \"mean\" and no labels")
    })
}

fn parse<T: FromStr<Err = Error>>(field: &str, text: &str, problems: &mut Problems) -> Option<T> {
    text.parse().map_err(|e: Error| problems.push(format_args!("{field}: {}", e.message()))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> AdapterCard {
        AdapterCard {
            family: Family::Classify,
            head: HeadForm::Labels,
            labels: vec!["yes".to_owned(), "no".to_owned()],
            problem_type: ProblemType::MultiLabel,
            backbone_fingerprint: Digest::from_sha256(&[7; 32]),
            max_length: 128,
            pooling: "mean".to_owned(),
            thresholds: [("yes".to_owned(), 0.25)].into(),
            training: Some(serde_json::json!({"seed": 42, "metrics": {"f1": 0.9}})),
        }
    }

    #[test]
    fn a_card_is_read_as_it_was_written() {
        let json = card().to_json();
        assert_eq!(AdapterCard::from_json(&json).unwrap(), card());
        assert_eq!(AdapterCard::from_json(&json).unwrap().to_json(), json);
    }

    #[test]
    fn a_card_of_named_concepts_has_no_labels_and_one_threshold() {
        let card = AdapterCard {
            family: Family::Ner,
            head: HeadForm::Concepts,
            labels: Vec::new(),
            thresholds: BTreeMap::new(),
            ..card()
        }
        .with_concept_threshold(0.5);
        let read = AdapterCard::from_json(&card.to_json()).unwrap();
        assert_eq!((&read, read.concept_threshold()), (&card, Some(0.5)));
        for (field, value) in [
            ("family", r#""classify""#),
            ("labels", r#"["a"]"#),
            ("pooling", r#""cls""#),
            ("head", r#""names""#),
            ("thresholds", r#"{"a": 0.5}"#),
        ] {
            let mut file: serde_json::Value = serde_json::from_slice(&card.to_json()).unwrap();
            file[field] = serde_json::from_str(value).unwrap();
            assert!(AdapterCard::from_json(file.to_string().as_bytes()).is_err(), "{field} = {value}");
        }
    }

    #[test]
    fn every_wrong_field_is_named() {
        for (field, value, expected) in [
            ("family", r#""qa""#, "family"),
            ("labels", r#"["a", "a"]"#, "labels"),
            ("labels", "[]", "labels"),
            ("problem_type", r#""regression""#, "problem_type"),
            ("backbone_fingerprint", r#""abc""#, "backbone_fingerprint"),
            ("max_length", "0", "max_length"),
            ("max_length", "1", "1 tokens leave no room"),
            ("max_length", "7", "at least 8"),
            ("max_length", "-1", "-1"),
            ("max_length", "1e99", "1e+99"),
            ("labels", r#"["yes\nno", "no"]"#, "control character"),
            ("max_length", r#""long""#, "string \"long\""),
            ("pooling", r#""max""#, "pooling"),
            ("thresholds", r#"{"maybe": 0.5}"#, "maybe"),
            ("thresholds", r#"{"yes": 1.5}"#, "1.5"),
            ("thresholds", r#"{"yes": -0.1}"#, "-0.1"),
            ("thresholds", r#"{"yes": null}"#, "null"),
            ("thresholds", r#"{"yes": 1e39}"#, "yes"),
            ("labelz", "1", "labelz"),
        ] {
            let mut file: serde_json::Value = serde_json::from_slice(&card().to_json()).unwrap();
            file[field] = serde_json::from_str(value).unwrap();
            let error = AdapterCard::from_json(file.to_string().as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{field} = {value}: {error}");
        }
    }
}
