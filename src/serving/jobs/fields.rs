//! Reads a JSON object field by field: every message names the field by its path, and a field nobody asked for is refused.

use std::fmt::Display;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::domain::{Auto, Error, Result};

/// Up to here every whole number has a float of its own.
const FLOAT_EXACT_BELOW: f64 = 9_007_199_254_740_992.0;

/// What is left to read of one object.
pub(super) struct Fields {
    /// `hyperparameters.` or, of the outermost object, nothing.
    prefix: String,
    rest: Map<String, Value>,
    /// Asked for so far: what an unknown field's message offers.
    known: Vec<&'static str>,
}

impl Fields {
    /// `path` is empty for the outermost object.
    pub(super) fn of(path: &str, value: Value) -> Result<Self> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        match value {
            Value::Object(rest) => Ok(Self { prefix, rest, known: Vec::new() }),
            other if path.is_empty() => Err(Error::invalid(format!("a job is a JSON object; got {other}"))),
            other => Err(Error::invalid(format!("{path}: {other} is not a JSON object"))),
        }
    }

    /// The field through `read`; None where it is missing or `null`.
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Result<T>,
    ) -> Result<Option<T>> {
        self.known.push(name);
        match self.rest.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).map_err(|error| error.context(self.path(name))),
        }
    }

    pub(super) fn required<T>(&mut self, name: &'static str, read: impl FnOnce(Value) -> Result<T>) -> Result<T> {
        self.optional(name, read)?.ok_or_else(|| Error::invalid(format!("{}: this field is required", self.path(name))))
    }

    /// The object under `name`; an empty one where it is missing.
    pub(super) fn object(&mut self, name: &'static str) -> Result<Option<Self>> {
        let path = self.path(name);
        self.known.push(name);
        match self.rest.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => Self::of(&path, value).map(Some),
        }
    }

    /// Refuses what is left.
    pub(super) fn finish(self) -> Result<()> {
        let Some(unknown) = self.rest.keys().next() else { return Ok(()) };
        let (path, known) = (self.path(unknown), self.known.join(", "));
        Err(Error::invalid(format!("{path}: unknown field; known here: {known}")))
    }

    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

pub(super) fn text(value: Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(Error::invalid(format!("{other} is not a string"))),
    }
}

pub(super) fn parsed<T: FromStr<Err = Error>>(value: Value) -> Result<T> {
    text(value)?.parse()
}

pub(super) fn flag(value: Value) -> Result<bool> {
    value.as_bool().ok_or_else(|| Error::invalid(format!("{value} is neither true nor false")))
}

pub(super) fn number(value: Value) -> Result<f64> {
    value.as_f64().ok_or_else(|| Error::invalid(format!("{value} is not a number")))
}

pub(super) fn whole<T: TryFrom<u64>>(value: Value) -> Result<T> {
    let fits = value.as_u64().or_else(|| whole_float(&value)).and_then(|number| T::try_from(number).ok());
    fits.ok_or_else(|| Error::invalid(format!("{value} is not a whole number from 0 that fits here")))
}

/// `8.0` is 8: some writers know no other numbers.
fn whole_float(value: &Value) -> Option<u64> {
    let number = value.as_f64()?;
    (number.fract() == 0.0 && (0.0..FLOAT_EXACT_BELOW).contains(&number)).then_some(number as u64)
}

/// `"auto"`, or what `read` takes.
pub(super) fn auto<T>(read: impl FnOnce(Value) -> Result<T>) -> impl FnOnce(Value) -> Result<Auto<T>> {
    move |value| match value.as_str() {
        Some("auto") => Ok(Auto::Auto),
        _ => read(value).map(Auto::Set).map_err(|error| Error::invalid(format!("{}, nor \"auto\"", error.message()))),
    }
}

pub(super) fn list<T>(read: impl Fn(Value) -> Result<T>) -> impl FnOnce(Value) -> Result<Vec<T>> {
    move |value| match value {
        Value::Array(items) => {
            items.into_iter().enumerate().map(|(at, item)| read(item).map_err(at_index(at))).collect()
        }
        other => Err(Error::invalid(format!("{other} is not a list"))),
    }
}

fn at_index(at: impl Display) -> impl FnOnce(Error) -> Error {
    move |error| error.context(format!("item {at}"))
}
