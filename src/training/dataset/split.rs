//! A split's canonical form: JSON lines, the same bytes for the same examples.

use serde::Serialize;

use crate::domain::{Error, Result};

use super::row::Rows;
use super::{DatasetFamily, Example, format};

/// A readable split.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Split {
    pub examples: Vec<Example>,
    /// Classification: some row had a list of labels.
    pub multi_label: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Ner {
        tokens: &'a [String],
        tags: &'a [String],
    },
    Label {
        text: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        text_pair: Option<&'a str>,
        label: &'a str,
    },
    Labels {
        text: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        text_pair: Option<&'a str>,
        labels: &'a [String],
    },
    Pair {
        a: &'a str,
        b: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        label: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        score: Option<f32>,
    },
}

impl Split {
    /// Canonical JSON lines: `{"tokens","tags"}`, `{"text","label"}` or `{"text","labels"}`, `{"a","b"}`.
    pub fn to_jsonl(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for example in &self.examples {
            serde_json::to_writer(&mut bytes, &self.line(example)).expect("strings and finite numbers are JSON");
            bytes.push(b'\n');
        }
        bytes
    }

    /// Reads what [`Split::to_jsonl`] wrote; fails with `unprocessable` on anything else.
    pub fn from_jsonl(family: DatasetFamily, bytes: &[u8]) -> Result<Self> {
        let mut rows = Rows::new(family);
        format::read(bytes, &mut rows);
        let split =
            Self { examples: rows.kept.into_iter().map(|row| row.example).collect(), multi_label: rows.multi_label };
        let (errors, _) = rows.findings.finish();
        if errors.is_empty() {
            return Ok(split);
        }
        let problems: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Err(Error::unprocessable("the stored split cannot be read").with_problems(problems))
    }

    fn line<'a>(&self, example: &'a Example) -> Line<'a> {
        match example {
            Example::Ner { words, tags } => Line::Ner { tokens: words, tags },
            Example::Classify { text, text_pair, labels } => match labels.as_slice() {
                [label] if !self.multi_label => Line::Label { text, text_pair: text_pair.as_deref(), label },
                labels => Line::Labels { text, text_pair: text_pair.as_deref(), labels },
            },
            Example::Pair { a, b, label, score } => Line::Pair { a, b, label: label.as_deref(), score: *score },
        }
    }
}
