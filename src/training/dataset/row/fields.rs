//! Fields of a row, whatever format had them: found under their usual names, refused with what was got and what is wanted.

use serde_json::{Map, Value};

use crate::domain::Excerpt;
use crate::training::dataset::findings::Code;
use crate::training::dataset::limits::{LABEL_BYTES_MAX, NAMES_SHOWN_MAX};

/// A row by field name.
pub(in crate::training::dataset) type Fields = Map<String, Value>;

/// Why a row is refused.
#[derive(Debug)]
pub(in crate::training::dataset) struct Fault {
    pub(in crate::training::dataset) code: Code,
    pub(in crate::training::dataset) message: String,
}

impl Fault {
    pub(in crate::training::dataset) fn unreadable(message: impl Into<String>) -> Self {
        Self { code: Code::UnreadableRow, message: message.into() }
    }

    pub(in crate::training::dataset) fn too_large(message: impl Into<String>) -> Self {
        Self { code: Code::TooLarge, message: message.into() }
    }
}

/// The first of `names` that is there and not null; where none is, in whatever letters the file writes it.
pub(super) fn find<'a, 'n>(fields: &'a Fields, names: &[&'n str]) -> Option<(&'n str, &'a Value)> {
    let exact =
        names.iter().find_map(|name| fields.get(*name).filter(|value| !value.is_null()).map(|value| (*name, value)));
    exact.or_else(|| {
        let there = |name: &&'n str| {
            let mut fields =
                fields.iter().filter(|(key, value)| key.trim().eq_ignore_ascii_case(name) && !value.is_null());
            fields.next().map(|(_, value)| (*name, value))
        };
        names.iter().find_map(there)
    })
}

/// Whether the field is there, null or not.
pub(super) fn has(fields: &Fields, name: &str) -> bool {
    fields.contains_key(name)
}

pub(super) fn optional_text<'a>(fields: &'a Fields, names: &[&str]) -> Result<Option<&'a str>, Fault> {
    let Some((name, value)) = find(fields, names) else { return Ok(None) };
    value.as_str().map(Some).ok_or_else(|| wrong(name, value, "a string"))
}

pub(super) fn text<'a>(fields: &'a Fields, names: &[&str]) -> Result<&'a str, Fault> {
    optional_text(fields, names)?.ok_or_else(|| missing_from(fields, names))
}

pub(super) fn strings(name: &str, value: &Value) -> Result<Vec<String>, Fault> {
    let list = value.as_array().ok_or_else(|| wrong(name, value, "a list of strings"))?;
    let string = |(at, value): (usize, &Value)| {
        value.as_str().map(str::to_owned).ok_or_else(|| wrong(&format!("{name}[{at}]"), value, "a string"))
    };
    list.iter().enumerate().map(string).collect()
}

/// A label's name: a string with something in it, or a whole number by its digits.
pub(super) fn label(name: &str, value: &Value) -> Result<String, Fault> {
    match value {
        Value::String(label) if !label.trim().is_empty() => check_label_length(label).map(|()| label.clone()),
        Value::String(_) => Err(Fault::unreadable(format!("field {name:?} is blank; a label is wanted"))),
        Value::Number(number) if number.is_i64() || number.is_u64() => Ok(number.to_string()),
        other => Err(wrong(name, other, "a label (a string or a whole number)")),
    }
}

/// Before a label is copied: a span's is written to each of its words.
pub(in crate::training::dataset) fn check_label_length(label: &str) -> Result<(), Fault> {
    let bytes = label.len();
    if bytes <= LABEL_BYTES_MAX {
        return Ok(());
    }
    let label = Excerpt(label);
    Err(Fault::too_large(format!("label {label:?} has {bytes} bytes; at most {LABEL_BYTES_MAX} are allowed")))
}

/// A character position under one of `names`.
pub(super) fn position(fields: &Fields, names: &[&'static str]) -> Result<usize, Fault> {
    let (name, value) = find(fields, names).ok_or_else(|| missing(names))?;
    as_position(name, value)
}

pub(super) fn as_position(name: &str, value: &Value) -> Result<usize, Fault> {
    let position = value.as_u64().and_then(|position| usize::try_from(position).ok());
    position.ok_or_else(|| wrong(name, value, "a character position from 0"))
}

pub(super) fn object<'a>(name: &str, value: &'a Value) -> Result<&'a Fields, Fault> {
    value.as_object().ok_or_else(|| wrong(name, value, "an object"))
}

pub(super) fn missing(names: &[&str]) -> Fault {
    let others = match names {
        [_] | [] => String::new(),
        [_, others @ ..] => format!(" (or {})", others.join(", ")),
    };
    Fault::unreadable(format!("field {:?}{others} is missing", names.first().unwrap_or(&"")))
}

/// The same, with the names that the row has.
pub(super) fn missing_from(fields: &Fields, names: &[&str]) -> Fault {
    let mut there: Vec<String> =
        fields.keys().take(NAMES_SHOWN_MAX).map(|name| format!("{:?}", Excerpt(name))).collect();
    if fields.len() > there.len() {
        there.push(format!("{} more", fields.len() - there.len()));
    }
    let fault = missing(names);
    match there.is_empty() {
        true => fault,
        false => Fault::unreadable(format!("{}; the row has {}", fault.message, there.join(", "))),
    }
}

pub(super) fn wrong(name: &str, value: &Value, wanted: &str) -> Fault {
    Fault::unreadable(format!("field {name:?} is {}; {wanted} is wanted", kind(value)))
}

pub(in crate::training::dataset) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
