//! CSV and TSV with a header. Quoting as in RFC 4180; line numbers are those of the file, also after quoted line ends.

use csv::{ReaderBuilder, StringRecord, Trim};
use serde_json::Value;

use crate::training::dataset::DatasetFamily;
use crate::training::dataset::findings::Code;
use crate::training::dataset::limits::ROW_BYTES_MAX;
use crate::training::dataset::row::{A, ANY_LABEL, B, Fault, Fields, Rows, TEXT};

/// Tab, semicolon or comma: whichever parts the header.
pub(super) fn delimiter(text: &str) -> u8 {
    let header = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let count = |delimiter: char| header.matches(delimiter).count();
    match (count('\t'), count(';'), count(',')) {
        (tabs, _, _) if tabs > 0 => b'\t',
        (_, semicolons, commas) if semicolons > commas => b';',
        _ => b',',
    }
}

pub(super) fn read(text: &str, delimiter: u8, rows: &mut Rows) {
    let mut reader = ReaderBuilder::new().delimiter(delimiter).trim(Trim::Headers).from_reader(text.as_bytes());
    let header: Vec<String> = match reader.headers() {
        Ok(header) => header.iter().map(str::to_lowercase).collect(),
        Err(e) => return rows.refuse(1, Fault::unreadable(e.to_string())),
    };
    if let Err(fault) = check_header(rows.family, &header) {
        return rows.refuse(1, fault);
    }
    for record in reader.records() {
        match record {
            Ok(record) => read_record(&header, &record, rows),
            Err(e) => {
                let line = e.position().map_or(0, |position| position.line() as usize);
                rows.refuse(line, Fault::unreadable(reason(&e)));
            }
        }
    }
}

fn read_record(header: &[String], record: &StringRecord, rows: &mut Rows) {
    let line = record.position().map_or(0, |position| position.line() as usize);
    let bytes = record.as_slice().len();
    if bytes > ROW_BYTES_MAX {
        let message = format!("{bytes} bytes in a row (an open quote?); at most {ROW_BYTES_MAX} are allowed");
        return rows.refuse(line, Fault { code: Code::TooLarge, message });
    }
    let fields: Fields = header.iter().cloned().zip(record.iter().map(cell)).collect();
    rows.read(line, &fields);
}

/// A cell that is a JSON list is a list of labels.
fn cell(text: &str) -> Value {
    let list = text.starts_with('[').then(|| serde_json::from_str::<Vec<Value>>(text).ok()).flatten();
    list.map_or_else(|| Value::String(text.to_owned()), Value::Array)
}

fn check_header(family: DatasetFamily, header: &[String]) -> Result<(), Fault> {
    let wanted: [&[&str]; 2] = match family {
        DatasetFamily::Ner => return Err(Fault::unreadable("tagged words are wanted, not a table")),
        DatasetFamily::Classify => [TEXT, ANY_LABEL],
        DatasetFamily::Pairs => [A, B],
    };
    let lacks = |names: &&&[&str]| !header.iter().any(|column| names.contains(&column.as_str()));
    match wanted.iter().find(lacks) {
        None => Ok(()),
        Some(names) => Err(Fault::unreadable(format!(
            "the header names {}; a column called {} is wanted",
            header.iter().map(|column| format!("{column:?}")).collect::<Vec<_>>().join(", "),
            names.join(" or ")
        ))),
    }
}

fn reason(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} cells under a header of {expected_len}")
        }
        _ => error.to_string(),
    }
}
