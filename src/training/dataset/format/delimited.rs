//! CSV and TSV with a header. Quoting as in RFC 4180; line numbers are those of the file, also after quoted line ends.

use std::cell::Cell;
use std::io::{self, Read};

use csv::{Reader, ReaderBuilder, StringRecord, Trim};
use serde_json::Value;

use crate::domain::Excerpt;
use crate::training::dataset::DatasetFamily;
use crate::training::dataset::limits::{COLUMNS_MAX, NAMES_SHOWN_MAX, ROW_BYTES_MAX};
use crate::training::dataset::row::{A, ANY_LABEL, B, Fault, Fields, Rows, TEXT, is_read};

/// Bytes that the CSV reader asks for at once.
const BUFFER_BYTES: usize = 64 << 10;

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
    let given = Cell::new(0);
    let record_by_record = RecordByRecord { bytes: text.as_bytes(), given: &given };
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .trim(Trim::Headers)
        .buffer_capacity(BUFFER_BYTES)
        .from_reader(record_by_record);
    match header(&mut reader, rows.family) {
        Ok(columns) => read_records(&mut reader, &columns, &given, rows),
        Err(fault) => rows.refuse(1, fault),
    }
}

/// Columns that are read: their places, and their names in lower case.
type Columns = Vec<(usize, String)>;

fn read_records(reader: &mut Reader<RecordByRecord<'_>>, columns: &Columns, given: &Cell<usize>, rows: &mut Rows) {
    let mut record = StringRecord::new();
    loop {
        given.set(0);
        let outcome = reader.read_record(&mut record);
        if rows.is_over(record.as_slice().len()) {
            return;
        }
        match outcome {
            Ok(true) => read_record(columns, &record, rows),
            Ok(false) => return,
            Err(e) if e.is_io_error() => {
                let line = reader.position().line() as usize;
                return rows.refuse(line, Fault::too_large(endless()));
            }
            Err(e) => {
                let line = e.position().map_or(0, |position| position.line() as usize);
                rows.refuse(line, Fault::unreadable(reason(&e)));
            }
        }
    }
}

fn read_record(columns: &Columns, record: &StringRecord, rows: &mut Rows) {
    let line = record.position().map_or(0, |position| position.line() as usize);
    let bytes = record.as_slice().len();
    if bytes > ROW_BYTES_MAX {
        let message = format!("{bytes} bytes in a row (an open quote?); at most {ROW_BYTES_MAX} are allowed");
        return rows.refuse(line, Fault::too_large(message));
    }
    let field = |(at, name): &(usize, String)| Some((name.clone(), cell(record.get(*at)?)));
    let fields: Fields = columns.iter().filter_map(field).collect();
    rows.read(line, &fields);
}

/// A cell that is a JSON list is a list of labels.
fn cell(text: &str) -> Value {
    let list = text.starts_with('[').then(|| serde_json::from_str::<Vec<Value>>(text).ok()).flatten();
    list.map_or_else(|| Value::String(text.to_owned()), Value::Array)
}

fn header(reader: &mut Reader<RecordByRecord<'_>>, family: DatasetFamily) -> Result<Columns, Fault> {
    let header = reader.headers().map_err(|e| match e.is_io_error() {
        true => Fault::too_large(endless()),
        false => Fault::unreadable(e.to_string()),
    })?;
    let bytes = header.as_slice().len();
    if header.len() > COLUMNS_MAX || bytes > ROW_BYTES_MAX {
        let (columns, most) = (header.len(), format!("at most {COLUMNS_MAX} columns and {ROW_BYTES_MAX} bytes"));
        return Err(Fault::too_large(format!("a header of {columns} columns and {bytes} bytes; {most} are allowed")));
    }
    let names: Vec<String> = header.iter().map(str::to_lowercase).collect();
    check_header(family, &names)?;
    Ok(names.into_iter().enumerate().filter(|(_, name)| is_read(name)).collect())
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
            shown(header),
            names.join(" or ")
        ))),
    }
}

/// The first of them.
fn shown(header: &[String]) -> String {
    let names: Vec<_> = header.iter().take(NAMES_SHOWN_MAX).map(|name| format!("{:?}", Excerpt(name))).collect();
    let more = header.len().saturating_sub(NAMES_SHOWN_MAX);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &rest
}

fn reason(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} cells under a header of {expected_len}")
        }
        _ => error.to_string(),
    }
}

fn endless() -> String {
    format!("a row that has no end within {ROW_BYTES_MAX} bytes (an open quote?)")
}

/// A text for the CSV reader, which reads a record whole, however long: past the bound of a row it gets an error instead.
struct RecordByRecord<'a> {
    bytes: &'a [u8],
    /// Bytes given since the last record was complete.
    given: &'a Cell<usize>,
}

impl Read for RecordByRecord<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given.get() > ROW_BYTES_MAX + BUFFER_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let read = self.bytes.read(buffer)?;
        self.given.set(self.given.get() + read);
        Ok(read)
    }
}
