//! Labels as a file has them to labels as they are meant: numbers to names, blanks at the ends off, renamed. Says what it did.

use std::collections::BTreeSet;

use serde_json::Value;

use super::fields::{Fault, check_label_length, wrong};
use crate::domain::Excerpt;
use crate::training::dataset::findings::{Code, Findings, Lines};
use crate::training::dataset::options::ReadOptions;
use crate::training::dataset::place::Place;

/// Numbers that some data sets give rows without a label.
const UNLABELLED: &str = "-1";

/// What was done to the labels of a file.
#[derive(Debug, Default)]
pub(super) struct Naming {
    /// The file has names for its numbers; those that are left have none.
    pub(super) declares_names: bool,
    /// Names that were renamed, of the caller's.
    renamed: BTreeSet<String>,
    /// Labels that are whole numbers, and others.
    numbers: Lines,
    words: bool,
    named_numbers: bool,
}

/// A label, or that there is none.
#[derive(Debug, PartialEq)]
pub(super) enum Named {
    Label(String),
    Unlabelled,
}

impl Naming {
    /// The label that `value` stands for: a string with something in it, or a whole number.
    pub(super) fn name(
        &mut self,
        field: &str,
        value: &Value,
        options: &ReadOptions,
        place: &Place,
        findings: &mut Findings,
    ) -> Result<Named, Fault> {
        let (raw, is_number) = match value {
            Value::String(label) if !label.trim().is_empty() => (label.clone(), false),
            Value::String(_) => return Err(Fault::unreadable(format!("field {field:?} is blank; a label is wanted"))),
            Value::Number(number) if number.is_i64() || number.is_u64() => (number.to_string(), true),
            Value::Number(number) => (whole(number.as_f64(), field, value)?, true),
            other => return Err(wrong(field, other, "a label (a string or a whole number)")),
        };
        check_label_length(&raw)?;
        let label = raw.trim();
        if label.len() < raw.len() {
            findings.warn(Code::TrimmedLabel, place, format!("{:?}", Excerpt(&raw)));
        }
        let digits = label.strip_prefix('-').unwrap_or(label);
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return self.number(label, is_number, options, place, findings);
        }
        self.words = true;
        Ok(Named::Label(self.rename(label, options)))
    }

    /// A label of digits: an id where there are names for ids.
    fn number(
        &mut self,
        label: &str,
        is_number: bool,
        options: &ReadOptions,
        place: &Place,
        findings: &mut Findings,
    ) -> Result<Named, Fault> {
        let names = &options.labels;
        let has_names = !names.is_empty() || (self.declares_names && is_number);
        if label == UNLABELLED && has_names {
            return Ok(Named::Unlabelled);
        }
        if let Some(name) = label.parse::<usize>().ok().and_then(|id| names.get(id)) {
            self.named_numbers = true;
            return Ok(Named::Label(self.rename(name, options)));
        }
        if !names.is_empty() {
            let count = names.len();
            return Err(Fault::unreadable(format!("label {label} has no name: labels names 0 to {}", count - 1)));
        }
        if has_names {
            findings.warn(Code::UnknownClass, place, format!("{label}, kept as the label {label:?}"));
        } else {
            self.numbers.add(place);
        }
        Ok(Named::Label(self.rename(label, options)))
    }

    /// The name that the caller wants for `label`.
    pub(super) fn rename(&mut self, label: &str, options: &ReadOptions) -> String {
        match options.rename.get(label) {
            None => label.to_owned(),
            Some(name) => {
                if !self.renamed.contains(label) {
                    self.renamed.insert(label.to_owned());
                }
                name.clone()
            }
        }
    }

    /// A tag with its entity type named as the caller wants.
    pub(super) fn tag(
        &mut self,
        at: usize,
        value: &Value,
        options: &ReadOptions,
        place: &Place,
        findings: &mut Findings,
    ) -> Result<String, Fault> {
        let raw = match value {
            Value::String(tag) => tag.clone(),
            Value::Number(id) if !options.labels.is_empty() => {
                let name = id.as_u64().and_then(|id| options.labels.get(usize::try_from(id).ok()?));
                self.named_numbers = true;
                name.cloned().ok_or_else(|| {
                    let last = options.labels.len() - 1;
                    Fault::unreadable(format!("tag {id} of word {} has no name: labels names 0 to {last}", at + 1))
                })?
            }
            Value::Number(id) if self.declares_names => {
                return Err(Fault::unreadable(format!("tag {id} of word {} has no name in the file", at + 1)));
            }
            other => {
                let fault = wrong(&format!("tags[{at}]"), other, "a string");
                return Err(Fault::unreadable(format!("{} (labels=… names numbers)", fault.message)));
            }
        };
        Ok(self.clean_tag(raw, options, place, findings))
    }

    /// The same for a tag that is text already.
    pub(super) fn clean_tag(
        &mut self,
        raw: String,
        options: &ReadOptions,
        place: &Place,
        findings: &mut Findings,
    ) -> String {
        let tag = raw.trim();
        if tag.len() < raw.len() && !tag.is_empty() {
            findings.warn(Code::TrimmedLabel, place, format!("{:?}", Excerpt(&raw)));
        }
        match tag.split_once('-') {
            Some((prefix, label)) if !options.rename.is_empty() => format!("{prefix}-{}", self.rename(label, options)),
            _ if tag.len() == raw.len() => raw,
            _ => tag.to_owned(),
        }
    }

    /// Numbers that nobody named, and options that changed nothing.
    pub(super) fn report(&self, options: &ReadOptions, findings: &mut Findings) {
        if !self.words {
            let hint = "labels=a,b,c names 0, 1, 2, …; label_column takes them from another column";
            findings.warn_of_lines(Code::NumericLabels, &self.numbers, hint);
        }
        if !options.labels.is_empty() && !self.named_numbers {
            findings.warn(Code::UnusedOption, &Place::file(), "labels: no row has a whole number for a label");
        }
        for (old, new) in options.rename.iter().filter(|(old, _)| !self.renamed.contains(*old)) {
            let (old, new) = (Excerpt(old), Excerpt(new));
            findings.warn(
                Code::UnusedOption,
                &Place::file(),
                format!("rename {old}:{new}: no row has the label {old:?}"),
            );
        }
    }
}

/// A whole number that was written with a point, as tables with gaps write their numbers.
fn whole(number: Option<f64>, field: &str, value: &Value) -> Result<String, Fault> {
    let whole = number.filter(|number| number.fract() == 0.0 && number.abs() < 1e15);
    whole
        .map(|number| format!("{number:.0}"))
        .ok_or_else(|| wrong(field, value, "a label (a string or a whole number)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::dataset::{AskedOptions, DatasetFamily};
    use serde_json::json;

    fn options(labels: Option<&str>, rename: Option<&str>) -> ReadOptions {
        let asked = AskedOptions {
            labels: labels.map(str::to_owned),
            rename: rename.map(str::to_owned),
            ..AskedOptions::default()
        };
        ReadOptions::parse(&asked, DatasetFamily::Classify).expect("sound options")
    }

    #[test]
    fn a_label_is_named_trimmed_and_renamed() {
        let check = |value: Value, options: &ReadOptions, wanted: Result<&str, &str>| {
            let named = Naming::default().name("label", &value, options, &Place::file(), &mut Findings::default());
            match (named, wanted) {
                (Ok(Named::Label(label)), Ok(wanted)) => assert_eq!(label, wanted, "{value}"),
                (Ok(Named::Unlabelled), Ok(wanted)) => assert_eq!("", wanted, "{value}"),
                (Err(fault), Err(wanted)) => assert!(fault.message.contains(wanted), "{}", fault.message),
                (got, wanted) => panic!("{value}: {got:?}, wanted {wanted:?}"),
            }
        };
        let plain = options(None, None);
        check(json!(" spam\u{a0}"), &plain, Ok("spam"));
        check(json!(3), &plain, Ok("3"));
        check(json!(-1), &plain, Ok("-1"));
        check(json!(2.0), &plain, Ok("2"));
        check(json!(2.5), &plain, Err("a whole number"));
        check(json!("  "), &plain, Err("is blank"));
        let named = options(Some("ham,spam"), Some("spam:junk"));
        check(json!(0), &named, Ok("ham"));
        check(json!("1"), &named, Ok("junk"));
        check(json!("spam"), &named, Ok("junk"));
        check(json!(-1), &named, Ok(""));
        check(json!(2), &named, Err("label 2 has no name: labels names 0 to 1"));
    }
}
