//! JSON shapes that several resources share: inputs, who answered, usage, lists, times.

use std::fmt;
use std::time::SystemTime;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;

use crate::domain;
use crate::domain::{AdapterName, CandidateLabels, Error, Result, TextInput};

/// `inputs`: one text, or a list of texts, pre-split words and pairs.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Inputs(pub(super) Vec<InputItem>);

#[derive(Debug, PartialEq)]
pub(super) enum InputItem {
    Text(String),
    Words(Vec<String>),
    Pair(TextPair),
}

/// Two texts that are classified together.
#[derive(Debug, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TextPair {
    pub(super) text: String,
    pub(super) text_pair: String,
}

/// One text, or a list of texts and pre-split words. At most as many as `--max-inputs` says.
#[derive(ToSchema)]
#[schema(as = Texts)]
#[serde(untagged)]
#[allow(dead_code)]
pub(super) enum TextsSchema {
    /// One text.
    Text(String),
    /// Several inputs.
    List(Vec<TextSchema>),
}

/// One input.
#[derive(ToSchema)]
#[schema(as = Text)]
#[serde(untagged)]
#[allow(dead_code)]
pub(super) enum TextSchema {
    Text(String),
    /// Pre-split words; offsets are over the words joined by one space.
    Words(Vec<String>),
}

/// One text, or a list of texts, pre-split words and pairs. At most as many as `--max-inputs` says.
#[derive(ToSchema)]
#[schema(as = Inputs)]
#[serde(untagged)]
#[allow(dead_code)]
pub(super) enum InputsSchema {
    /// One text.
    Text(String),
    /// One pair.
    Pair(TextPair),
    /// Several inputs.
    List(Vec<InputSchema>),
}

/// One input.
#[derive(ToSchema)]
#[schema(as = Input)]
#[serde(untagged)]
#[allow(dead_code)]
pub(super) enum InputSchema {
    Text(String),
    /// Pre-split words.
    Words(Vec<String>),
    Pair(TextPair),
}

impl Inputs {
    /// Between 1 and `inputs_max` inputs; pairs only where they mean something.
    pub(super) fn into_domain(self, inputs_max: usize, pairs: bool) -> Result<Vec<TextInput>> {
        if self.0.is_empty() {
            return Err(Error::invalid("inputs: an empty list; at least one input is wanted"));
        }
        if self.0.len() > inputs_max {
            return Err(Error::too_large(format!("inputs: {} of them; at most {inputs_max} a request", self.0.len())));
        }
        self.0.into_iter().enumerate().map(|(at, item)| item.into_domain(at, pairs)).collect()
    }
}

impl InputItem {
    fn into_domain(self, at: usize, pairs: bool) -> Result<TextInput> {
        match self {
            Self::Text(text) => Ok(TextInput::Text(text)),
            Self::Words(words) => Ok(TextInput::Words(words)),
            Self::Pair(TextPair { text, text_pair }) if pairs => Ok(TextInput::Pair { text, text_pair }),
            Self::Pair(_) => Err(Error::invalid(format!(
                "inputs[{at}]: a pair of texts is for /v1/classify alone; a text or a list of words is wanted"
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputsVisitor)
    }
}

struct InputsVisitor;

impl<'de> Visitor<'de> for InputsVisitor {
    type Value = Inputs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a list of strings, a list of lists of strings, or objects {\"text\", \"text_pair\"}")
    }

    fn visit_str<E>(self, text: &str) -> Result<Inputs, E> {
        Ok(Inputs(vec![InputItem::Text(text.to_owned())]))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Inputs, A::Error> {
        Ok(Inputs(vec![ItemVisitor.visit_map(map)?]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Inputs, A::Error> {
        Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(Inputs)
    }
}

impl<'de> Deserialize<'de> for InputItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = InputItem;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a list of words, or an object {\"text\", \"text_pair\"}")
    }

    fn visit_str<E>(self, text: &str) -> Result<InputItem, E> {
        Ok(InputItem::Text(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<InputItem, A::Error> {
        TextPair::deserialize(MapAccessDeserializer::new(map)).map(InputItem::Pair)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<InputItem, A::Error> {
        Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(InputItem::Words)
    }
}

/// Which adapter version answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct AdapterIdentity {
    #[schema(example = "people-places")]
    pub(super) name: String,
    #[schema(example = 3)]
    pub(super) version: u32,
    /// `sha256:` and 64 hexadecimal digits.
    pub(super) digest: String,
    pub(super) backbone: BackboneIdentity,
}

impl AdapterIdentity {
    pub(super) fn new(identity: &domain::AdapterIdentity, backbone: &domain::BackboneIdentity) -> Self {
        let (name, digest) = (identity.name.to_string(), identity.digest.to_string());
        Self { name, version: identity.version, digest, backbone: backbone.into() }
    }
}

/// Which backbone computed it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct BackboneIdentity {
    #[schema(example = "all-MiniLM-L6-v2")]
    pub(super) name: String,
    /// SHA-256 of weights, config and tokenizer.
    pub(super) fingerprint: String,
}

impl From<&domain::BackboneIdentity> for BackboneIdentity {
    fn from(identity: &domain::BackboneIdentity) -> Self {
        Self { name: identity.name.clone(), fingerprint: identity.fingerprint.to_string() }
    }
}

#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(super) struct Usage {
    /// Inputs answered.
    pub(super) sequences: usize,
    /// Tokens the encoder read, special tokens included.
    pub(super) tokens: usize,
}

/// What happens to a text of more tokens than the adapter takes.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum LongText {
    /// Overlapping windows; nothing goes unread.
    Window,
    /// The rest goes unread; `truncated` says so.
    Truncate,
    /// 422.
    Error,
}

impl From<LongText> for domain::LongText {
    fn from(long_text: LongText) -> Self {
        match long_text {
            LongText::Window => Self::Window,
            LongText::Truncate => Self::Truncate,
            LongText::Error => Self::Error,
        }
    }
}

/// The names of a zero-shot request.
pub(super) fn candidate_labels(names: Option<Vec<String>>) -> Result<Option<CandidateLabels>> {
    let named = |names| CandidateLabels::new(names).map_err(|error| error.context("parameters.candidate_labels"));
    names.map(named).transpose()
}

/// RFC 3339, in UTC.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Time(pub(super) SystemTime);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let time = OffsetDateTime::from(self.0).replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        serializer.serialize_str(&time.format(&Rfc3339).map_err(serde::ser::Error::custom)?)
    }
}

/// A file, for the document alone.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code)]
pub(super) struct Binary(Vec<u8>);

/// A page of things.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct List<T> {
    #[schema(example = "list")]
    object: &'static str,
    pub(super) data: Vec<T>,
    /// Whether another page follows, where there are pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) has_more: Option<bool>,
}

impl<T> List<T> {
    pub(super) fn all(data: Vec<T>) -> Self {
        Self { object: "list", data, has_more: None }
    }

    pub(super) fn page(data: Vec<T>, has_more: bool) -> Self {
        Self { object: "list", data, has_more: Some(has_more) }
    }
}

/// What is left of a thing that was deleted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Deleted {
    pub(super) name: String,
    /// Of an adapter, when one version alone went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<u32>,
    pub(super) deleted: bool,
}

impl Deleted {
    pub(super) fn new(name: impl fmt::Display, version: Option<u32>) -> Self {
        Self { name: name.to_string(), version, deleted: true }
    }
}

/// A name from a path or message.
pub(super) fn adapter_name(name: &str) -> Result<AdapterName> {
    name.parse()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::extract::parse;

    fn text(s: &str) -> InputItem {
        InputItem::Text(s.to_owned())
    }

    fn words(list: &[&str]) -> InputItem {
        InputItem::Words(list.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn inputs_are_read_in_all_their_shapes() {
        let pair = || InputItem::Pair(TextPair { text: "a".into(), text_pair: "b".into() });
        let table = [
            (r#""""#, vec![text("")]),
            (r#""Anna""#, vec![text("Anna")]),
            (r#"["a", "b"]"#, vec![text("a"), text("b")]),
            (r#"[["a", "b"], ["c"]]"#, vec![words(&["a", "b"]), words(&["c"])]),
            (r#"{"text": "a", "text_pair": "b"}"#, vec![pair()]),
            (r#"[{"text": "a", "text_pair": "b"}, "c"]"#, vec![pair(), text("c")]),
            (r#""nul \u0000 and \ud83e\udd80""#, vec![text("nul \0 and 🦀")]),
            ("[]", vec![]),
        ];
        for (json, wanted) in table {
            assert_eq!(parse::<Inputs>(json.as_bytes()).unwrap(), Inputs(wanted), "{json}");
        }
    }

    #[test]
    fn a_wrong_input_is_named_by_its_place() {
        let table = [
            ("3", "a string, a list of strings"),
            ("null", "a string, a list of strings"),
            (r#"["a", 3]"#, "[1]: invalid type: integer `3`, expected a string, a list of words"),
            (r#"[["a", null]]"#, "[0][1]: invalid type: null, expected a string"),
            (r#"[{"text": "a"}]"#, "missing field `text_pair`"),
            (r#"{"text": "a", "text_pair": "b", "c": 1}"#, "unknown field `c`"),
            (r#""\ud800""#, "not JSON"),
            (r#"["a""#, "not JSON: EOF"),
        ];
        for (json, wanted) in table {
            let error = parse::<Inputs>(json.as_bytes()).unwrap_err();
            assert!(error.message().contains(wanted), "{json}: {}", error.message());
        }
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_800_000_000_123);
        assert_eq!(serde_json::to_string(&Time(time)).unwrap(), "\"2027-01-15T08:00:00Z\"");
    }
}
