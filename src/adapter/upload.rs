//! A folder as somebody else left it: the adapter's files, and what the model's `config.json` beside them says of the head. Gives a
//! folder fresh from PEFT the card it lacks, and says what about it is doubtful. Leaves whether it fits the weights to `bundle`.

use std::collections::BTreeMap;

use crate::adapter::base_model::names_another;
use crate::adapter::files::{CARD_NAME, CONFIG_NAME, MODEL_CONFIG_NAME, WEIGHTS_NAME};
use crate::adapter::model_config::ModelConfig;
use crate::adapter::weights;
use crate::adapter::{AdapterCard, AdapterFiles, LoraConfig};
use crate::domain::{Digest, Error, Family, HeadForm, LabelSet, ProblemType, Result};

/// Where heads keep the rows of their last product, in the reference library's classes; of one that has no more than an update, there.
const OUTPUT_WEIGHTS: [&str; 4] = [
    "classifier.weight",
    "classifier.out_proj.weight",
    "classifier.lora_B.weight",
    "classifier.out_proj.lora_B.weight",
];

/// An adapter folder that was not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub files: AdapterFiles,
    /// `config.json` of the whole model, which some save beside their adapter. It is asked once and not kept.
    pub model_config: Option<Vec<u8>>,
}

/// The backbone that a folder without a card is taken to be made for.
#[derive(Clone, Copy, Debug)]
pub struct MadeFor<'a> {
    pub fingerprint: &'a Digest,
    /// Tokens of the longest sequence it reads.
    pub max_length: usize,
    /// What it is called, here and where it came from.
    pub names: &'a [String],
}

/// Files with a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carded {
    pub files: AdapterFiles,
    /// What whoever published them should look at.
    pub warnings: Vec<String>,
}

impl Upload {
    /// Gives a folder fresh from PEFT a card: labels from the upload's `?labels=`, else from `id2label` of its `config.json`, else
    /// `LABEL_0…`; family from `?family=` or the adapter's `task_type`; the kind of problem from `config.json`. Files that have a card
    /// already are left alone, and refused if `labels` or `family` contradict it.
    pub fn with_card(
        self,
        labels: Option<Vec<String>>,
        family: Option<Family>,
        backbone: MadeFor<'_>,
    ) -> Result<Carded> {
        let Self { files, model_config } = self;
        if let Some(card) = &files.card {
            refuse_contradiction(&AdapterCard::from_json(card)?, labels.as_deref(), family)?;
            return Ok(Carded { files, warnings: Vec::new() });
        }
        let lora = LoraConfig::from_json(&files.config)?;
        let mut warnings: Vec<String> = names_another(&lora, backbone.names).into_iter().collect();
        let model = model_config.map(|json| ModelConfig::read(&json, &mut warnings)).unwrap_or_default();
        let card = AdapterCard {
            family: family_of(family, &lora, &model)?,
            head: HeadForm::Labels,
            labels: match labels {
                Some(labels) => labels,
                None => own_labels(&files, &model, &mut warnings)?,
            },
            problem_type: model.problem_type.unwrap_or(ProblemType::SingleLabel),
            backbone_fingerprint: backbone.fingerprint.clone(),
            max_length: backbone.max_length,
            pooling: "cls".to_owned(),
            thresholds: BTreeMap::new(),
            training: None,
        };
        Ok(Carded { files: AdapterFiles { card: Some(card.to_json()), ..files }, warnings })
    }
}

impl From<AdapterFiles> for Upload {
    fn from(files: AdapterFiles) -> Self {
        Self { files, model_config: None }
    }
}

impl AdapterFiles {
    /// [`Upload::with_card`] of a folder without a `config.json`, for a backbone whose name does not matter.
    pub fn with_card(
        self,
        labels: Option<Vec<String>>,
        family: Option<Family>,
        fingerprint: &Digest,
        max_length: usize,
    ) -> Result<Self> {
        let backbone = MadeFor { fingerprint, max_length, names: &[] };
        Upload::from(self).with_card(labels, family, backbone).map(|carded| carded.files)
    }
}

fn family_of(wanted: Option<Family>, lora: &LoraConfig, model: &ModelConfig) -> Result<Family> {
    match (wanted, lora.family()) {
        (Some(wanted), Some(configured)) if wanted != configured => Err(Error::unprocessable(format!(
            "family {wanted} was asked for, but the task_type of {CONFIG_NAME} says {configured}"
        ))),
        (Some(family), _) | (None, Some(family)) => Ok(family),
        (None, None) => model.family.ok_or_else(|| {
            Error::unprocessable(format!("{CONFIG_NAME} has no task_type: say ?family=ner or ?family=classify"))
        }),
    }
}

/// The names that `config.json` has for as many rows as the head has, else `LABEL_0…`, as the reference library numbers labels that
/// nobody named.
fn own_labels(files: &AdapterFiles, model: &ModelConfig, warnings: &mut Vec<String>) -> Result<Vec<String>> {
    let rows = weights::rows_of(&files.weights, &OUTPUT_WEIGHTS)?;
    let rows = rows.ok_or_else(|| {
        let [plain, projected, ..] = OUTPUT_WEIGHTS;
        Error::unprocessable(format!("{WEIGHTS_NAME} has no head: {:?} is missing", [plain, projected]))
    })?;
    if rows > LabelSet::MAX {
        return Err(Error::unprocessable(format!("the head has {rows} labels; at most {} are served", LabelSet::MAX)));
    }
    let numbered = || (0..rows).map(|row| format!("LABEL_{row}")).collect();
    match &model.labels {
        Some(labels) if labels.len() == rows => Ok(labels.clone()),
        Some(labels) => {
            let named = labels.len();
            warnings.push(format!(
                "id2label of {MODEL_CONFIG_NAME} names {named} labels, but the head has {rows} rows: they are called LABEL_0 and so \
                 on; say ?labels= to name them"
            ));
            Ok(numbered())
        }
        None => Ok(numbered()),
    }
}

fn refuse_contradiction(card: &AdapterCard, labels: Option<&[String]>, family: Option<Family>) -> Result<()> {
    if let Some(family) = family.filter(|&family| family != card.family) {
        return Err(Error::unprocessable(format!(
            "family {family} was asked for, but {CARD_NAME} says {}",
            card.family
        )));
    }
    match labels {
        Some(labels) if labels != card.labels => Err(Error::unprocessable(format!(
            "the labels given are not what {CARD_NAME} says: {}; leave them out or change the card",
            difference(labels, &card.labels)
        ))),
        _ => Ok(()),
    }
}

/// Where two different lists part.
fn difference(given: &[String], own: &[String]) -> String {
    match given.iter().zip(own).position(|(given, own)| given != own) {
        Some(at) => format!("label {at} is {:?}, not {:?}", given[at], own[at]),
        None => format!("{} are given for {}", given.len(), own.len()),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    fn upload(lora: &str, head: &str, rows: usize, model_config: Option<&str>) -> Upload {
        let tensor = Tensor::zeros((rows, 2), DType::F32, &Device::Cpu).unwrap();
        let weights = weights::write(&[(head.to_owned(), tensor)].into()).unwrap();
        let config = format!(r#"{{"peft_type": "LORA", "target_modules": ["query"] {lora}}}"#).into_bytes();
        let files = AdapterFiles { config, weights, card: None, concepts: None };
        Upload { files, model_config: model_config.map(|json| json.as_bytes().to_vec()) }
    }

    fn carded(upload: Upload, labels: Option<&[&str]>) -> Result<(AdapterCard, Vec<String>)> {
        let fingerprint = Digest::from_sha256(&[7; 32]);
        let backbone = MadeFor { fingerprint: &fingerprint, max_length: 64, names: &["org/small".to_owned()] };
        let labels = labels.map(|labels| labels.iter().map(|&label| label.to_owned()).collect());
        let Carded { files, warnings } = upload.with_card(labels, None, backbone)?;
        Ok((files.read_card()?, warnings))
    }

    const SEQUENCES: &str = r#", "task_type": "SEQ_CLS""#;
    const NAMED: &str = r#"{"id2label": {"1": "pos", "0": "neg"}, "problem_type": "multi_label_classification"}"#;

    #[test]
    fn labels_are_the_callers_else_those_of_the_models_configuration_else_numbers() {
        for (config, rows, given, wanted, warned) in [
            (None, 2, None, ["LABEL_0", "LABEL_1"].as_slice(), ""),
            (Some(NAMED), 2, None, &["neg", "pos"], ""),
            (Some(NAMED), 2, Some(["no", "yes"].as_slice()), &["no", "yes"], ""),
            (Some(NAMED), 3, None, &["LABEL_0", "LABEL_1", "LABEL_2"], "names 2 labels, but the head has 3 rows"),
            (Some(r#"{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}"#), 1, None, &["LABEL_0"], ""),
            (Some(r#"{"id2label": {"0": "a", "2": "b"}}"#), 2, None, &["LABEL_0", "LABEL_1"], "id2label"),
            (Some("[1"), 2, None, &["LABEL_0", "LABEL_1"], "config.json cannot be read"),
            (Some("{}"), 2, None, &["LABEL_0", "LABEL_1"], ""),
        ] {
            let (card, warnings) = carded(upload(SEQUENCES, "classifier.weight", rows, config), given).unwrap();
            assert_eq!(card.labels, wanted, "{config:?}");
            let warnings = warnings.join("\n");
            assert!(warnings.contains(warned) && warnings.is_empty() == warned.is_empty(), "{config:?}: {warnings}");
        }
    }

    #[test]
    fn the_kind_of_problem_and_the_family_are_the_models_where_nobody_else_says() {
        let (card, _) = carded(upload(SEQUENCES, "classifier.weight", 2, Some(NAMED)), None).unwrap();
        assert_eq!(card.problem_type, ProblemType::MultiLabel);
        let tokens = r#"{"architectures": ["BertForTokenClassification"]}"#;
        let (card, _) = carded(upload("", "classifier.weight", 2, Some(tokens)), None).unwrap();
        assert_eq!((card.family, card.problem_type), (Family::Ner, ProblemType::SingleLabel));
        let (card, _) = carded(upload(SEQUENCES, "classifier.weight", 2, Some(tokens)), None).unwrap();
        assert_eq!(card.family, Family::Classify, "the adapter's own word comes first");
        let error = carded(upload("", "classifier.weight", 2, None), None).unwrap_err();
        assert!(error.message().contains("has no task_type"), "{error}");
        let regression = r#"{"problem_type": "regression"}"#;
        let (_, warnings) = carded(upload(SEQUENCES, "classifier.weight", 1, Some(regression)), None).unwrap();
        assert!(warnings[0].contains("\"regression\""), "{warnings:?}");
    }

    #[test]
    fn the_rows_of_a_head_are_counted_wherever_it_keeps_them() {
        for head in OUTPUT_WEIGHTS {
            let (card, _) = carded(upload(SEQUENCES, head, 3, None), None).unwrap();
            assert_eq!(card.labels.len(), 3, "{head}");
        }
        let error = carded(upload(SEQUENCES, "score.weight", 3, None), None).unwrap_err();
        assert!(error.message().contains("has no head"), "{error}");
    }
}
