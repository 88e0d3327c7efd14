//! Which format bytes are in, by content, and its reader. What a row means is left to `row`.

mod conll;
mod delimited;
mod json;
mod parquet;

use super::DatasetFamily;
use super::findings::Code;
use super::row::Rows;

/// A byte order mark, as spreadsheets write it.
const BOM: char = '\u{feff}';

/// The rows of unpacked bytes, and the name of their format.
pub(super) fn read(bytes: &[u8], rows: &mut Rows) -> &'static str {
    if bytes.starts_with(parquet::MAGIC) {
        parquet::read(bytes, rows);
        return "parquet";
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => read_text(text.trim_start_matches(BOM), rows),
        Err(e) => {
            let line = 1 + bytes[..e.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
            rows.findings.error(Code::InvalidUtf8, line, format!("byte {} begins no character", e.valid_up_to()));
            "unknown"
        }
    }
}

fn read_text(text: &str, rows: &mut Rows) -> &'static str {
    let format = match (opening(text), rows.family) {
        ("", _) => "empty",
        ("{", _) => {
            json::read_lines(text, rows);
            "json-lines"
        }
        ("[", _) => {
            json::read_array(text, rows);
            "json-array"
        }
        (_, DatasetFamily::Ner) => {
            conll::read(text, rows);
            "conll"
        }
        _ => {
            let delimiter = delimited::delimiter(text);
            delimited::read(text, delimiter, rows);
            if delimiter == b'\t' { "tsv" } else { "csv" }
        }
    };
    if rows.from_label_studio { "label-studio" } else { format }
}

/// `{` or `[` for JSON; a bracket may also be a word of a column file, so what follows it counts.
fn opening(text: &str) -> &'static str {
    let mut marks = text.chars().filter(|c| !c.is_whitespace());
    match (marks.next(), marks.next()) {
        (None, _) => "",
        (Some('{'), Some('"' | '}')) => "{",
        (Some('['), Some('{' | ']')) => "[",
        _ => "text",
    }
}
