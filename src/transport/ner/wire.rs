//! The JSON of `/v1/ner`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain;
use crate::domain::{Error, NerPrediction, Result, TextInput};
use crate::transport::schema;
use crate::transport::wire::{AdapterIdentity, Inputs, LongText, TextsSchema, Usage, candidate_labels};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::transport) struct NerRequest {
    #[schema(value_type = TextsSchema)]
    pub(in crate::transport) inputs: Inputs,
    /// `name`, `name@version` or an alias; default: the alias `default-ner`.
    #[schema(value_type = Option<schema::AdapterReference>, example = "people-places")]
    pub(in crate::transport) adapter: Option<String>,
    pub(in crate::transport) parameters: Option<NerParameters>,
}

/// Every field is optional; `null` is its default.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::transport) struct NerParameters {
    /// Default `first`, which is what training's figures measure; Hugging Face's own pipelines begin with `none`.
    #[schema(default = "first")]
    pub(in crate::transport) aggregation_strategy: Option<AggregationStrategy>,
    /// Entities scored lower are left out.
    #[schema(default = 0.0, minimum = 0, maximum = 1)]
    pub(in crate::transport) threshold: Option<f32>,
    /// Labels and tags that are never reported; default `["O"]`.
    pub(in crate::transport) ignore_labels: Option<Vec<String>>,
    /// Only these entity types.
    pub(in crate::transport) labels: Option<Vec<String>>,
    #[schema(default = "char")]
    pub(in crate::transport) offset_unit: Option<OffsetUnit>,
    #[schema(default = "window")]
    pub(in crate::transport) long_text: Option<LongText>,
    /// Tokens that neighbouring windows share.
    #[schema(default = 64, maximum = 4294967295u32)]
    pub(in crate::transport) stride: Option<u32>,
    /// Zero-shot: the entity types to look for, with an adapter whose head compares with named concepts.
    #[schema(value_type = Option<BTreeSet<schema::CandidateLabel>>, min_items = 1, max_items = 256)]
    pub(in crate::transport) candidate_labels: Option<Vec<String>>,
}

/// How token tags become entities, as in Hugging Face's pipelines. `none` reports tokens.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::transport) enum AggregationStrategy {
    None,
    Simple,
    First,
    Average,
    Max,
}

/// What `start` and `end` count.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::transport) enum OffsetUnit {
    /// Unicode code points, as Python counts.
    Char,
    /// UTF-8 bytes, as Go and Rust count.
    Byte,
    /// UTF-16 units, as JavaScript and Java count.
    Utf16,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct NerResponse {
    #[schema(example = "req_01938d2c7f1a7c7e8b1d2f3a4b5c6d7e")]
    pub(in crate::transport) id: String,
    #[schema(example = "ner")]
    pub(in crate::transport) object: &'static str,
    pub(in crate::transport) adapter: AdapterIdentity,
    pub(in crate::transport) offset_unit: OffsetUnit,
    /// One an input, in order.
    pub(in crate::transport) results: Vec<NerResult>,
    pub(in crate::transport) usage: Usage,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct NerResult {
    /// In text order.
    pub(in crate::transport) entities: Vec<Entity>,
    /// Tokens the encoder read for this input, special tokens included.
    pub(in crate::transport) tokens: usize,
    pub(in crate::transport) windows: usize,
    /// Whether some of the text went unread.
    pub(in crate::transport) truncated: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct Entity {
    /// The entity type; with aggregation `none` `entity` is there instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "PER")]
    pub(in crate::transport) entity_group: Option<String>,
    /// With aggregation `none`: the token's tag, as `B-PER`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::transport) entity: Option<String>,
    #[schema(example = 0.998)]
    pub(in crate::transport) score: f32,
    /// The caller's own text between `start` and `end`.
    #[schema(example = "Anna")]
    pub(in crate::transport) word: String,
    #[schema(example = 5)]
    pub(in crate::transport) start: usize,
    #[schema(example = 9)]
    pub(in crate::transport) end: usize,
    /// With aggregation `none`: the token's position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::transport) index: Option<usize>,
}

impl NerParameters {
    pub(in crate::transport) fn into_domain(self) -> Result<domain::NerParameters> {
        let or = domain::NerParameters::default();
        let threshold = self.threshold.unwrap_or(or.threshold);
        if !(0.0..=1.0).contains(&threshold) {
            return Err(Error::invalid(format!("parameters.threshold: {threshold} is not between 0 and 1")));
        }
        let candidate_labels = candidate_labels(self.candidate_labels)?;
        if candidate_labels.is_some() && matches!(self.aggregation_strategy, Some(AggregationStrategy::None)) {
            return Err(Error::invalid(
                "parameters.aggregation_strategy: \"none\" gives tags, and candidate_labels have none; another one is wanted",
            ));
        }
        Ok(domain::NerParameters {
            aggregation: self.aggregation_strategy.map_or(or.aggregation, Into::into),
            threshold,
            ignore_labels: self.ignore_labels.unwrap_or(or.ignore_labels),
            labels: self.labels,
            offset_unit: self.offset_unit.map_or(or.offset_unit, Into::into),
            long_text: self.long_text.map_or(or.long_text, Into::into),
            stride: self.stride.map_or(or.stride, |stride| stride as usize),
            candidate_labels,
        })
    }
}

impl NerResult {
    pub(in crate::transport) fn new(
        input: &TextInput,
        prediction: &NerPrediction,
        parameters: &domain::NerParameters,
    ) -> Self {
        let text = input.source_text();
        let ranges: Vec<_> = prediction.entities.iter().map(|entity| entity.range.clone()).collect();
        let places = domain::convert_ranges(&text, &ranges, parameters.offset_unit);
        let grouped = parameters.aggregation != domain::Aggregation::None;
        let entities = prediction.entities.iter().zip(places).map(|(entity, place)| Entity {
            entity_group: grouped.then(|| entity.label.clone()),
            entity: (!grouped).then(|| entity.label.clone()),
            score: entity.score,
            word: text.get(entity.range.clone()).unwrap_or_default().to_owned(),
            start: place.start,
            end: place.end,
            index: entity.index,
        });
        Self {
            entities: entities.collect(),
            tokens: prediction.tokens,
            windows: prediction.windows,
            truncated: prediction.truncated,
        }
    }
}

impl From<AggregationStrategy> for domain::Aggregation {
    fn from(strategy: AggregationStrategy) -> Self {
        match strategy {
            AggregationStrategy::None => Self::None,
            AggregationStrategy::Simple => Self::Simple,
            AggregationStrategy::First => Self::First,
            AggregationStrategy::Average => Self::Average,
            AggregationStrategy::Max => Self::Max,
        }
    }
}

impl From<OffsetUnit> for domain::OffsetUnit {
    fn from(unit: OffsetUnit) -> Self {
        match unit {
            OffsetUnit::Char => Self::Char,
            OffsetUnit::Byte => Self::Byte,
            OffsetUnit::Utf16 => Self::Utf16,
        }
    }
}

impl From<domain::OffsetUnit> for OffsetUnit {
    fn from(unit: domain::OffsetUnit) -> Self {
        match unit {
            domain::OffsetUnit::Char => Self::Char,
            domain::OffsetUnit::Byte => Self::Byte,
            domain::OffsetUnit::Utf16 => Self::Utf16,
        }
    }
}

impl OffsetUnit {
    pub(in crate::transport) fn as_str(self) -> &'static str {
        match self {
            Self::Char => "char",
            Self::Byte => "byte",
            Self::Utf16 => "utf16",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_the_callers_text_and_offsets_are_in_the_callers_unit() {
        let input = TextInput::Text("🦀 Meet ANNA".to_owned());
        let entity = domain::Entity { label: "PER".into(), score: 0.5, range: 10..14, index: None };
        let prediction = NerPrediction { entities: vec![entity], tokens: 5, windows: 1, truncated: false };
        for (unit, start, end) in [("char", 7, 11), ("byte", 10, 14), ("utf16", 8, 12)] {
            let json = format!(r#"{{"offset_unit": "{unit}"}}"#);
            let parameters: NerParameters = serde_json::from_str(&json).unwrap();
            let result = NerResult::new(&input, &prediction, &parameters.into_domain().unwrap());
            let json = serde_json::to_value(&result.entities[0]).unwrap();
            let wanted =
                serde_json::json!({"entity_group": "PER", "score": 0.5, "word": "ANNA", "start": start, "end": end});
            assert_eq!(json, wanted, "{unit}");
        }
    }

    #[test]
    fn a_threshold_is_a_probability() {
        for (threshold, fits) in [(0.0, true), (1.0, true), (-0.1, false), (1.5, false)] {
            let parameters = NerParameters { threshold: Some(threshold), ..Default::default() };
            assert_eq!(parameters.into_domain().is_ok(), fits, "{threshold}");
        }
    }
}
