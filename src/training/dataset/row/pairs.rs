//! Pairs of texts that belong together, or say by label or score how much they do.

use serde_json::Value;

use super::fields::{Fault, Fields, find, text, wrong};
use super::{Named, Rows};
use crate::training::dataset::Example;
use crate::training::dataset::findings::Code;
use crate::training::dataset::place::Place;

pub(in crate::training::dataset) const A: &[&str] = &["a", "sentence1", "anchor"];
pub(in crate::training::dataset) const B: &[&str] = &["b", "sentence2", "positive"];

/// None: the row has no label where the file has names for them, and `rows` knows it.
pub(super) fn read(fields: &Fields, place: &Place, rows: &mut Rows) -> Result<Option<Example>, Fault> {
    let mut given = find(fields, &["score"]).map(|(name, value)| score(name, value)).transpose()?;
    let mut name = None;
    match find(fields, &["label"]) {
        // A graded similarity under the name of a label.
        Some((field, Value::Number(number))) if number.is_f64() => {
            given = given.or(Some(score(field, &Value::Number(number.clone()))?));
        }
        Some((field, value)) => match rows.name_label(field, value, place)? {
            Named::Label(label) => name = Some(label),
            Named::Unlabelled => {
                rows.findings.warn(Code::UnlabelledRow, place, "the label is -1");
                return Ok(None);
            }
        },
        None => {}
    }
    let (a, b) = (text(fields, A)?.to_owned(), text(fields, B)?.to_owned());
    Ok(Some(Example::Pair { a, b, label: name, score: given }))
}

/// A number, also as text (a CSV has no others).
fn score(name: &str, value: &Value) -> Result<f32, Fault> {
    let number = value.as_f64().or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()));
    let score = number.map(|number| number as f32).filter(|score| score.is_finite());
    score.ok_or_else(|| wrong(name, value, "a finite number"))
}
