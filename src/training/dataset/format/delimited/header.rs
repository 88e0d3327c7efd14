//! A table's header: which delimiter parts it, and which of its columns are read under which name.

use crate::domain::Excerpt;
use crate::training::dataset::DatasetFamily;
use crate::training::dataset::findings::Code;
use crate::training::dataset::limits::{COLUMNS_MAX, NAMES_SHOWN_MAX, ROW_BYTES_MAX};
use crate::training::dataset::options::ReadOptions;
use crate::training::dataset::row::{A, ANY_LABEL, B, Fault, LIST_TAGS, LIST_WORDS, NER_TEXT, SPANS, TEXT, is_read};

/// Bytes of the first line that tell its delimiter.
const BYTES_PROBED: usize = 16 << 10;

/// Names that people give to a column of texts or of labels, beside those that are read.
const HEADER_WORDS: &[&str] = &[
    "body",
    "comment",
    "description",
    "document",
    "emotion",
    "headline",
    "message",
    "polarity",
    "query",
    "question",
    "rating",
    "review",
    "score",
    "sentiment",
    "stars",
    "subject",
    "tag",
    "target",
    "title",
    "topic",
    "tweet",
    "type",
];

/// The columns that are read.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    /// Their places, and the names of their fields.
    pub(super) columns: Vec<(usize, String)>,
    /// Cells of the header.
    pub(super) width: usize,
    /// What the first line is.
    pub(super) first: First,
    /// Places without which a row says nothing: of the text and of the label.
    pub(super) wanted: Vec<usize>,
}

/// What a table's first line is. Only where both columns are given by place is there a choice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum First {
    Header,
    /// A header, for one of the two cells is a usual name; the other is none, so it could be a row.
    ProbablyHeader,
    /// There is no header.
    Row,
}

/// The sign that parts the first line: the one under which most columns are known, then the one with most columns, then a tab, which
/// nobody types; a comma where nothing parts it.
pub(super) fn delimiter(line: &str, options: &ReadOptions) -> u8 {
    let probed = &line[..line.floor_char_boundary(BYTES_PROBED)];
    let score = |delimiter: &u8| {
        let cells: Vec<String> = cells(probed, *delimiter).collect();
        let known = cells.iter().filter(|name| is_read(name, options)).count().min(2);
        (known, cells.len(), *delimiter == b'\t' && cells.len() > 1)
    };
    // Of equals the last wins.
    [b'|', b';', b'\t', b','].into_iter().max_by_key(score).unwrap_or(b',')
}

/// Cells of a header line as names; none of them holds a delimiter.
pub(super) fn cells(line: &str, delimiter: u8) -> impl Iterator<Item = String> {
    line.split(char::from(delimiter)).map(|cell| cell.trim().trim_matches('"').trim().to_lowercase())
}

impl Header {
    /// Fails on a column that the caller names and the header lacks, and where the family's own columns are missing.
    pub(super) fn read(first: &[String], family: DatasetFamily, options: &ReadOptions) -> Result<Self, Fault> {
        let bytes = first.iter().map(String::len).sum::<usize>();
        if first.len() > COLUMNS_MAX || bytes > ROW_BYTES_MAX {
            let (columns, most) = (first.len(), format!("at most {COLUMNS_MAX} columns and {ROW_BYTES_MAX} bytes"));
            return Err(Fault::too_large(format!(
                "a header of {columns} columns and {bytes} bytes; {most} are allowed"
            )));
        }
        let names: Vec<String> = first.iter().map(|name| name.trim().to_lowercase()).collect();
        let asked: Vec<(usize, &str)> = [&options.text_column, &options.label_column]
            .into_iter()
            .flatten()
            .map(|column| place(column, &names).map(|at| (at, column.as_str())))
            .collect::<Result<_, _>>()?;
        let mut columns: Vec<(usize, String)> = asked.iter().map(|(at, column)| (*at, (*column).to_owned())).collect();
        let others = names.iter().enumerate().filter(|(at, name)| {
            is_read(name, options)
                && !asked.iter().any(|(asked, column)| asked == at || column.eq_ignore_ascii_case(name))
        });
        columns.extend(others.map(|(at, name)| (at, name.clone())));
        let wanted = wanted(&names, &columns, family, options)?;
        Ok(Self { columns, width: first.len(), first: First::of(&names, family, options), wanted })
    }
}

/// A column by its name, else by its place from 1.
fn place(column: &str, names: &[String]) -> Result<usize, Fault> {
    let lower = column.to_lowercase();
    let numbered = || column.parse::<usize>().ok().filter(|at| (1..=names.len()).contains(at)).map(|at| at - 1);
    names.iter().position(|name| *name == lower).or_else(numbered).ok_or_else(|| Fault {
        code: Code::UnknownColumn,
        message: format!(
            "{:?} is neither one of the header's names ({}) nor a place of 1 to {}",
            Excerpt(column),
            shown(names),
            names.len()
        ),
    })
}

impl First {
    /// Where both columns are given by place, their two cells alone are looked at: other cells of a row may well be "id" or "a".
    fn of(names: &[String], family: DatasetFamily, options: &ReadOptions) -> Self {
        let cell = |column: &Option<String>| {
            let column = column.as_ref().filter(|column| !names.contains(column))?;
            names.get(column.parse::<usize>().ok()?.checked_sub(1)?)
        };
        let (Some(text), Some(label)) = (cell(&options.text_column), cell(&options.label_column)) else {
            return Self::Header;
        };
        let [texts, labels] = usual(names, family);
        let is_word = |name: &String| HEADER_WORDS.contains(&name.as_str());
        let (is_text, is_label) = (texts.contains(&text.as_str()) || is_word(text), labels.contains(&label.as_str()));
        match (is_text, is_label || is_word(label)) {
            (true, true) => Self::Header,
            // "question" may be a label, but hardly a text.
            (true, false) => Self::ProbablyHeader,
            (false, _) if is_label => Self::ProbablyHeader,
            (false, _) => Self::Row,
        }
    }
}

/// The usual names of the two columns that the family needs.
fn usual(names: &[String], family: DatasetFamily) -> [&'static [&'static str]; 2] {
    let is_list = family == DatasetFamily::Ner && names.iter().any(|name| LIST_TAGS.contains(&name.as_str()));
    match family {
        DatasetFamily::Ner if is_list => [LIST_WORDS, LIST_TAGS],
        DatasetFamily::Ner => [NER_TEXT, SPANS],
        DatasetFamily::Classify => [TEXT, ANY_LABEL],
        DatasetFamily::Pairs => [A, B],
    }
}

/// The places of the two columns that the family needs.
fn wanted(
    names: &[String],
    columns: &[(usize, String)],
    family: DatasetFamily,
    options: &ReadOptions,
) -> Result<Vec<usize>, Fault> {
    let usual = usual(names, family);
    let wanted = [options.text_names(usual[0]), options.label_names(usual[1])];
    let find = |wanted: &Vec<&str>| columns.iter().find(|(_, name)| wanted.contains(&name.as_str())).map(|(at, _)| *at);
    wanted
        .iter()
        .zip(["text_column", "label_column"])
        .map(|(wanted, option)| {
            find(wanted).ok_or_else(|| {
                let hint = match family {
                    DatasetFamily::Pairs => String::new(),
                    _ => format!(" ({option} names another, or its place from 1 where there is no header)"),
                };
                let (there, wanted) = (shown(names), wanted.join(" or "));
                Fault::unreadable(format!("the header names {there}; a column called {wanted} is wanted{hint}"))
            })
        })
        .collect()
}

/// The first of them.
fn shown(header: &[String]) -> String {
    let names: Vec<_> = header.iter().take(NAMES_SHOWN_MAX).map(|name| format!("{:?}", Excerpt(name))).collect();
    let more = header.len().saturating_sub(NAMES_SHOWN_MAX);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &rest
}
