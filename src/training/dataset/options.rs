//! What a caller says of a file instead of leaving it to the reader: parsed once, at the edge, for REST, gRPC and the command line.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::{Error, Excerpt, Result};

use super::DatasetFamily;
use super::limits::{COLUMNS_MAX, LABEL_BYTES_MAX, LABELS_MAX};

/// Bytes of a column's or field's name.
const COLUMN_BYTES_MAX: usize = 256;

/// The options as words, under the names that callers use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AskedOptions {
    pub text_column: Option<String>,
    pub label_column: Option<String>,
    pub columns: Option<String>,
    pub labels: Option<String>,
    pub multi_label: Option<String>,
    pub rename: Option<String>,
    pub on_error: Option<String>,
}

/// How a file is to be read. What is None is recognised from the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// The field or column that holds the text (or the words); of a table also its place, from 1.
    pub(super) text_column: Option<String>,
    /// The field or column that holds the label, the tags or the spans; of a table also its place, from 1.
    pub(super) label_column: Option<String>,
    /// Where the words and the tags of column files are.
    pub(super) columns: Option<WordAndTag>,
    /// Names of the labels that the file gives as whole numbers from 0.
    pub(super) labels: Vec<String>,
    /// Whether a row may have any number of labels.
    pub(super) multi_label: Option<bool>,
    /// Labels, and what they are called instead.
    pub(super) rename: BTreeMap<String, String>,
    pub(super) on_error: OnError,
}

/// Places in a column file, from 0; callers count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WordAndTag {
    pub(super) word: usize,
    pub(super) tag: usize,
}

/// What becomes of a file with rows that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum OnError {
    /// One such row refuses the file.
    #[default]
    Refuse,
    /// They are left out and counted, within a bound.
    Skip,
}

impl ReadOptions {
    /// Fails with `invalid_request` on a word that cannot be read, and where two options or an option and `family` contradict.
    pub fn parse(asked: &AskedOptions, family: DatasetFamily) -> Result<Self> {
        let options = Self {
            text_column: column("text_column", asked.text_column.as_deref())?,
            label_column: column("label_column", asked.label_column.as_deref())?,
            columns: asked.columns.as_deref().map(word_and_tag).transpose()?,
            labels: asked.labels.as_deref().map_or(Ok(Vec::new()), label_names)?,
            multi_label: asked.multi_label.as_deref().map(truth).transpose()?,
            rename: asked.rename.as_deref().map_or(Ok(BTreeMap::new()), renames)?,
            on_error: asked.on_error.as_deref().map_or(Ok(OnError::Refuse), on_error)?,
        };
        options.check_family(family)?;
        options.check_columns()?;
        Ok(options)
    }

    fn check_family(&self, family: DatasetFamily) -> Result<()> {
        use DatasetFamily::{Classify, Ner};
        let given = [
            ("columns", self.columns.is_some(), [Ner].as_slice()),
            ("multi_label", self.multi_label.is_some(), &[Classify]),
            ("text_column", self.text_column.is_some(), &[Ner, Classify]),
            ("label_column", self.label_column.is_some(), &[Ner, Classify]),
        ];
        match given.into_iter().find(|(_, is_given, families)| *is_given && !families.contains(&family)) {
            None => Ok(()),
            Some((name, _, families)) => {
                let wanted: Vec<_> = families.iter().map(|family| family.as_str()).collect();
                let wanted = wanted.join(" or ");
                Err(Error::invalid(format!("{name} is for data of family {wanted}; this is {family}")))
            }
        }
    }

    fn check_columns(&self) -> Result<()> {
        if self.columns.is_some() && (self.text_column.is_some() || self.label_column.is_some()) {
            let which = "columns is for column files; text_column and label_column are for rows with named fields";
            return Err(Error::invalid(format!("{which}: give the one or the others")));
        }
        match (&self.text_column, &self.label_column) {
            (Some(text), Some(label)) if text == label => {
                Err(Error::invalid(format!("text_column and label_column are both {text:?}; they are to differ")))
            }
            _ => Ok(()),
        }
    }

    /// The caller's name for the text, or the usual ones.
    pub(super) fn text_names<'a>(&'a self, usual: &'a [&'a str]) -> Vec<&'a str> {
        self.text_column.as_deref().map_or_else(|| usual.to_vec(), |name| vec![name])
    }

    /// The caller's name for the label, or the usual ones.
    pub(super) fn label_names<'a>(&'a self, usual: &'a [&'a str]) -> Vec<&'a str> {
        self.label_column.as_deref().map_or_else(|| usual.to_vec(), |name| vec![name])
    }
}

fn column(option: &str, name: Option<&str>) -> Result<Option<String>> {
    let Some(name) = name.map(str::trim) else { return Ok(None) };
    if name.is_empty() || name.len() > COLUMN_BYTES_MAX || name == "0" {
        let got = Excerpt(name);
        return Err(Error::invalid(format!(
            "{option}: {got:?} is no column; a name of 1 to {COLUMN_BYTES_MAX} bytes or a place from 1 is wanted"
        )));
    }
    Ok(Some(name.to_owned()))
}

/// `word:2,tag:3`.
fn word_and_tag(text: &str) -> Result<WordAndTag> {
    let wanted = || {
        let got = Excerpt(text);
        Error::invalid(format!("columns: {got:?}; word:N,tag:M is wanted, with two places of 1 to {COLUMNS_MAX}"))
    };
    let (mut word, mut tag) = (None, None);
    for part in text.split(',') {
        let (name, place) = part.split_once(':').ok_or_else(wanted)?;
        let place = place.trim().parse::<usize>().ok().filter(|place| (1..=COLUMNS_MAX).contains(place));
        let slot = match name.trim() {
            "word" => &mut word,
            "tag" => &mut tag,
            _ => return Err(wanted()),
        };
        if slot.replace(place.ok_or_else(wanted)? - 1).is_some() {
            return Err(wanted());
        }
    }
    match (word, tag) {
        (Some(word), Some(tag)) if word != tag => Ok(WordAndTag { word, tag }),
        _ => Err(wanted()),
    }
}

/// `a,b,c`, or a JSON list where a name holds a comma.
fn label_names(text: &str) -> Result<Vec<String>> {
    let names: Vec<String> = match text.trim_start().starts_with('[') {
        true => serde_json::from_str(text)
            .map_err(|e| Error::invalid(format!("labels: a JSON list of names is wanted: {e}")))?,
        false => text.split(',').map(str::to_owned).collect(),
    };
    let names: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
    names.iter().try_for_each(|name| check_label("labels", name))?;
    let distinct = names.iter().collect::<BTreeSet<_>>().len();
    // Tags have two names a label, and one more.
    if names.len() > 2 * LABELS_MAX + 1 || distinct != names.len() {
        let got = names.len();
        return Err(Error::invalid(format!("labels: {got} names, {distinct} of them different; each is wanted once")));
    }
    Ok(names)
}

/// `old:new,old:new`, or a JSON object where a name holds a comma or a colon. Each label is renamed once.
fn renames(text: &str) -> Result<BTreeMap<String, String>> {
    let pairs: Vec<(String, String)> = if text.trim_start().starts_with('{') {
        let object: BTreeMap<String, String> = serde_json::from_str(text)
            .map_err(|e| Error::invalid(format!("rename: a JSON object of names is wanted: {e}")))?;
        object.into_iter().collect()
    } else {
        text.split(',').map(rename).collect::<Result<_>>()?
    };
    let mut renames = BTreeMap::new();
    for (old, new) in pairs {
        let (old, new) = (old.trim().to_owned(), new.trim().to_owned());
        check_label("rename", &old)?;
        check_label("rename", &new)?;
        if renames.insert(old.clone(), new).is_some() {
            return Err(Error::invalid(format!("rename: {:?} is given twice", Excerpt(&old))));
        }
    }
    Ok(renames)
}

fn rename(pair: &str) -> Result<(String, String)> {
    let wanted = || {
        Error::invalid(format!(
            "rename: {:?}; OLD:NEW is wanted (a JSON object where a name holds a comma or a colon)",
            Excerpt(pair)
        ))
    };
    let (old, new) = pair.split_once(':').ok_or_else(wanted)?;
    if new.contains(':') { Err(wanted()) } else { Ok((old.to_owned(), new.to_owned())) }
}

fn check_label(option: &str, name: &str) -> Result<()> {
    match name.is_empty() || name.len() > LABEL_BYTES_MAX {
        true => Err(Error::invalid(format!(
            "{option}: {:?} is no label; a name of 1 to {LABEL_BYTES_MAX} bytes is wanted",
            Excerpt(name)
        ))),
        false => Ok(()),
    }
}

fn truth(word: &str) -> Result<bool> {
    word.parse().map_err(|_| Error::invalid(format!("multi_label: {:?} is neither true nor false", Excerpt(word))))
}

fn on_error(word: &str) -> Result<OnError> {
    match word {
        "refuse" => Ok(OnError::Refuse),
        "skip" => Ok(OnError::Skip),
        _ => Err(Error::invalid(format!("on_error: {:?} is neither refuse nor skip", Excerpt(word)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DatasetFamily::{Classify, Ner, Pairs};

    fn parse(family: DatasetFamily, pairs: &[(&str, &str)]) -> Result<ReadOptions> {
        let mut asked = AskedOptions::default();
        for (name, value) in pairs {
            let slot = match *name {
                "text_column" => &mut asked.text_column,
                "label_column" => &mut asked.label_column,
                "columns" => &mut asked.columns,
                "labels" => &mut asked.labels,
                "multi_label" => &mut asked.multi_label,
                "rename" => &mut asked.rename,
                "on_error" => &mut asked.on_error,
                other => panic!("no option {other}"),
            };
            *slot = Some((*value).to_owned());
        }
        ReadOptions::parse(&asked, family)
    }

    #[test]
    fn words_become_options() {
        assert_eq!(parse(Ner, &[]).expect("nothing asked"), ReadOptions::default());
        let ner = parse(Ner, &[("columns", "tag:3, word:2"), ("on_error", "skip")]).expect("sound");
        assert_eq!((ner.columns, ner.on_error), (Some(WordAndTag { word: 1, tag: 2 }), OnError::Skip));
        let classify = [("labels", "a, b"), ("rename", "x:y,y:x"), ("multi_label", "false"), ("text_column", "2")];
        let classify = parse(Classify, &classify).expect("sound");
        assert_eq!(classify.labels, ["a", "b"]);
        assert_eq!((classify.rename["x"].as_str(), classify.rename["y"].as_str()), ("y", "x"));
        assert_eq!((classify.multi_label, classify.text_column.as_deref()), (Some(false), Some("2")));
        let json = parse(Classify, &[("labels", r#"["a, b","c"]"#), ("rename", r#"{"a:b":"c, d"}"#)]).expect("sound");
        assert_eq!((json.labels[0].as_str(), json.rename["a:b"].as_str()), ("a, b", "c, d"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_name() {
        let check = |family, pairs: &[(&str, &str)], words: &str| {
            let error = parse(family, pairs).expect_err("refused");
            assert!(error.message().contains(words), "{error} lacks {words:?}");
        };
        for text in ["", "word:1", "word:0,tag:1", "word:1,tag:1", "word:1,tag:2,tag:3", "a:1,tag:2", "2,3"] {
            check(Ner, &[("columns", text)], "word:N,tag:M is wanted");
        }
        check(Classify, &[("multi_label", "yes")], "multi_label: \"yes\" is neither");
        check(Classify, &[("on_error", "ignore")], "on_error: \"ignore\" is neither");
        check(Classify, &[("labels", "a,a")], "2 names, 1 of them different");
        check(Classify, &[("labels", "a,,b")], "labels: \"\" is no label");
        check(Classify, &[("rename", "a")], "OLD:NEW is wanted");
        check(Classify, &[("rename", "a:b,a:c")], "\"a\" is given twice");
        check(Classify, &[("text_column", " ")], "text_column: \"\" is no column");
        check(Classify, &[("text_column", "a"), ("label_column", "a")], "both \"a\"");
        check(Classify, &[("columns", "word:1,tag:2")], "columns is for data of family ner; this is classify");
        check(Ner, &[("multi_label", "true")], "multi_label is for data of family classify");
        check(Pairs, &[("text_column", "a")], "text_column is for data of family ner or classify");
        check(Ner, &[("columns", "word:1,tag:2"), ("text_column", "a")], "give the one or the others");
    }
}
