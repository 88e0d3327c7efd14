//! Which format bytes are in, by content, and its reader. What a row means is left to `row`.

mod conll;
mod delimited;
mod foreign;
mod json;
mod parquet;

use super::DatasetFamily;
use super::decode;
use super::findings::Code;
use super::place::Place;
use super::row::Rows;

/// The rows of unpacked bytes, and the name of their format.
pub(super) fn read(bytes: &[u8], rows: &mut Rows) -> &'static str {
    if bytes.starts_with(parquet::MAGIC) {
        warn_of_columns("Parquet", rows);
        parquet::read(bytes, rows);
        return "parquet";
    }
    if let Some(what) = foreign::name(bytes) {
        rows.findings.error(Code::ForeignFormat, &Place::file(), format!("this is {what}"));
        return "unknown";
    }
    let text = decode::text(bytes, rows);
    if text.contains('\0') && is_binary(&text) {
        rows.findings.error(Code::ForeignFormat, &Place::file(), "this is no text");
        return "unknown";
    }
    read_text(&text, rows)
}

/// Text has no control characters but a few; bytes of other kinds have many.
fn is_binary(text: &str) -> bool {
    /// Characters that are looked at.
    const CHARS_PROBED: usize = 4096;
    let probed = || text.chars().take(CHARS_PROBED);
    let controls = probed().filter(|c| c.is_control() && !c.is_whitespace()).count();
    10 * controls > probed().count()
}

fn read_text(text: &str, rows: &mut Rows) -> &'static str {
    let format = match (opening(text), rows.family) {
        ("", _) => "empty",
        ("{", _) => {
            warn_of_columns("JSON lines", rows);
            json::read_lines(text, rows);
            "json-lines"
        }
        ("[", _) => {
            warn_of_columns("JSON", rows);
            json::read_array(text, rows);
            "json-array"
        }
        (_, DatasetFamily::Ner) if rows.options.columns.is_some() || !delimited::has_spans_or_lists(text, rows) => {
            conll::read(text, rows);
            "conll"
        }
        _ => delimited::read(text, rows),
    };
    if rows.from_label_studio { "label-studio" } else { format }
}

/// Named fields have no places.
fn warn_of_columns(format: &str, rows: &mut Rows) {
    if rows.options.columns.is_some() {
        rows.findings.warn(Code::UnusedOption, &Place::file(), format!("columns: {format} has named fields"));
    }
}

/// `{` or `[` for JSON; a bracket may also be a word of a column file, so what follows it counts.
fn opening(text: &str) -> &'static str {
    let mut marks = text.chars().filter(|c| !c.is_whitespace());
    match (marks.next(), marks.next()) {
        (None, _) => "",
        (Some('{'), Some('"' | '}')) => "{",
        (Some('['), Some('{' | ']')) => "[",
        // spaCy's rows: ["text", {"entities": […]}], one a line or in a list.
        (Some('['), Some('"')) if json::is_list_line(text) => "{",
        (Some('['), Some('[')) if marks.next() == Some('"') => "[",
        _ => "text",
    }
}
