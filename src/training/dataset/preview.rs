//! The first rows as they were understood, so that a wrong guess shows at a glance. Long ones are cut.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Example;
use super::limits::{PREVIEW_CHARS_MAX, PREVIEW_WORDS_MAX};
use super::row::Row;

/// A row in the shape of its stored line: `tokens` and `tags`, `text` with `label` or `labels`, `a` and `b`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PreviewRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    pub row: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub a: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
}

impl PreviewRow {
    /// `multi_label`: labels are a list, also a single one.
    pub(super) fn of(row: &Row, multi_label: bool) -> Self {
        let place = &row.place;
        let found = Self {
            line: (place.line > 0).then_some(place.line),
            row: place.row,
            task_id: place.task_id.as_deref().map(str::to_owned),
            ..Self::default()
        };
        match &row.example {
            Example::Ner { words, tags } => Self { tokens: Some(first(words)), tags: Some(first(tags)), ..found },
            Example::Classify { text, text_pair, labels } => {
                let (label, labels) = match labels.as_slice() {
                    [label] if !multi_label => (Some(label.clone()), None),
                    labels => (None, Some(first(labels))),
                };
                Self { text: Some(cut(text)), text_pair: text_pair.as_deref().map(cut), label, labels, ..found }
            }
            Example::Pair { a, b, label, score } => {
                Self { a: Some(cut(a)), b: Some(cut(b)), label: label.clone(), score: *score, ..found }
            }
        }
    }
}

fn first(words: &[String]) -> Vec<String> {
    words.iter().take(PREVIEW_WORDS_MAX).map(|word| cut(word)).collect()
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(PREVIEW_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// `Meet/O Anna/B-PER`; `text → label | label`; `a ~ b → label`.
impl fmt::Display for PreviewRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(words), Some(tags)) = (&self.tokens, &self.tags) {
            let tagged: Vec<_> = words.iter().zip(tags).map(|(word, tag)| format!("{word}/{tag}")).collect();
            return f.write_str(&tagged.join(" "));
        }
        let texts = [(&self.text, &self.text_pair, " + "), (&self.a, &self.b, " ~ ")];
        if let Some((text, second, sign)) = texts.into_iter().find_map(|(a, b, sign)| Some((a.as_ref()?, b, sign))) {
            write!(f, "{text:?}")?;
            second.iter().try_for_each(|second| write!(f, "{sign}{second:?}"))?;
        }
        let labels = self.labels.iter().flatten().chain(&self.label);
        let labels: Vec<String> = labels.cloned().chain(self.score.map(|score| score.to_string())).collect();
        write!(f, " → {}", labels.join(" | "))
    }
}
