//! A split's canonical form: JSON lines, the same bytes for the same examples.

use std::io::{self, Write};

use serde::Serialize;

use crate::domain::{Cancel, Error, Result};

use super::limits::BYTES_A_LOOK;
use super::options::ReadOptions;
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
        self.write_jsonl(&Cancel::default(), |lines| {
            bytes.extend_from_slice(lines);
            Ok(())
        })
        .expect("strings and finite numbers are JSON");
        bytes
    }

    /// The same lines, some at a time, so that nobody needs to keep them all. Fails if `to` does, and once it is cancelled.
    pub fn write_jsonl(&self, cancel: &Cancel, mut to: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut lines = Vec::new();
        for example in &self.examples {
            write_line(&mut lines, &line(example, self.multi_label))?;
            if lines.len() > BYTES_A_LOOK {
                cancel.check()?;
                to(&lines)?;
                lines.clear();
            }
        }
        to(&lines)
    }

    /// Reads what [`Split::to_jsonl`] wrote; fails with `unprocessable` on anything else.
    pub fn from_jsonl(family: DatasetFamily, bytes: &[u8]) -> Result<Self> {
        parse(family, bytes, &Cancel::default())
    }
}

/// [`Split::from_jsonl`], as long as it is wanted.
pub(super) fn parse(family: DatasetFamily, bytes: &[u8], cancel: &Cancel) -> Result<Split> {
    let mut rows = Rows::new(family, &ReadOptions::default(), cancel);
    format::read(bytes, &mut rows);
    rows.check_wanted()?;
    let multi_label = rows.multi_label();
    let examples = rows.kept.into_iter().map(|row| row.example).collect();
    let split = Split { examples, multi_label };
    let (errors, _) = rows.findings.finish();
    if errors.is_empty() {
        return Ok(split);
    }
    let problems: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Err(Error::unprocessable("the stored split cannot be read").with_problems(problems))
}

/// Bytes of the line that is stored for `example`, at most.
pub(super) fn stored_bytes(example: &Example) -> usize {
    let mut count = Count(0);
    // A sink that counts does not fail; and a line that cannot be written would be refused when it is.
    let _counted = write_line(&mut count, &line(example, true));
    count.0
}

fn write_line(mut to: impl Write, line: &Line<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut to, line)?;
    to.write_all(b"\n")
}

struct Count(usize);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `multi_label`: labels are a list, also a single one.
fn line(example: &Example, multi_label: bool) -> Line<'_> {
    match example {
        Example::Ner { words, tags } => Line::Ner { tokens: words, tags },
        Example::Classify { text, text_pair, labels } => match labels.as_slice() {
            [label] if !multi_label => Line::Label { text, text_pair: text_pair.as_deref(), label },
            labels => Line::Labels { text, text_pair: text_pair.as_deref(), labels },
        },
        Example::Pair { a, b, label, score } => Line::Pair { a, b, label: label.as_deref(), score: *score },
    }
}
