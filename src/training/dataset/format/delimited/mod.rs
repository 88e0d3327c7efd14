//! CSV and TSV. CSV is quoted as in RFC 4180, TSV is not; line numbers are those of the file, also after quoted line ends.

mod cells;
mod header;
mod tabs;

use std::cell::Cell as Counter;
use std::io::{self, Read};

use csv::{Reader, ReaderBuilder, StringRecord};
use serde_json::Value;

use crate::domain::Excerpt;
use crate::training::dataset::DatasetFamily;
use crate::training::dataset::findings::Code;
use crate::training::dataset::limits::ROW_BYTES_MAX;
use crate::training::dataset::place::Place;
use crate::training::dataset::row::{
    A, B, Fault, Fields, LIST_TAGS, LIST_WORDS, NER_TEXT, Rows, SPANS, TEXT, TEXT_PAIR,
};

use cells::Cell;
use header::{First, Header};

/// Bytes that the CSV reader asks for at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Reads a table, and names its format.
pub(super) fn read(text: &str, rows: &mut Rows) -> &'static str {
    let (delimiter, text, skipped) = delimiter(text, rows);
    let mut table = Table { header: None, delimiter, lines_before: skipped };
    if delimiter == b'\t' {
        read_tabs(text, &mut table, rows);
        return "tsv";
    }
    read_csv(text, &mut table, rows);
    "csv"
}

/// Whether a NER file is a table of texts with spans, or of lists of words, rather than columns of words.
pub(super) fn has_spans_or_lists(text: &str, rows: &Rows) -> bool {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return false };
    let names: Vec<String> = header::cells(first, header::delimiter(first, &rows.options)).collect();
    let has = |usual: &[&str]| names.iter().any(|name| usual.contains(&name.as_str()));
    let is_asked = rows.options.text_column.is_some() && rows.options.label_column.is_some();
    let is_named = (has(LIST_WORDS) && has(LIST_TAGS)) || (has(NER_TEXT) && has(SPANS)) || is_asked;
    is_named && second.contains('[')
}

/// The delimiter, the text behind a line `sep=;` of Excel's, and how many lines that is.
fn delimiter<'a>(text: &'a str, rows: &Rows) -> (u8, &'a str, usize) {
    let first = text.lines().next().unwrap_or_default();
    let said = first.trim().strip_prefix("sep=").and_then(|sign| <[u8; 1]>::try_from(sign.as_bytes()).ok());
    if let Some([delimiter]) = said.filter(|[sign]| sign.is_ascii() && !matches!(sign, b'"' | b'\r' | b'\n')) {
        let rest = text.get(first.len()..).unwrap_or_default().trim_start_matches('\r');
        return (delimiter, rest.strip_prefix('\n').unwrap_or(rest), 1);
    }
    let header = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    (header::delimiter(header, &rows.options), text, 0)
}

/// A table as far as it is known: its header comes first.
struct Table {
    header: Option<Header>,
    delimiter: u8,
    /// Lines of the file before its text.
    lines_before: usize,
}

impl Table {
    /// A record of the file. False: nothing more can be read.
    fn record(&mut self, line: usize, cells: &[String], rows: &mut Rows) -> bool {
        let line = line + self.lines_before;
        if self.header.is_none() {
            let header = match Header::read(cells, rows.family, &rows.options) {
                Ok(header) => header,
                Err(fault) => {
                    rows.fail(&Place::of_line(line), fault);
                    return false;
                }
            };
            let first = header.first;
            self.header = Some(header);
            if !is_row(first, line, cells, rows) {
                return true;
            }
        }
        let place = rows.place(line);
        match self.fields(cells, &place, rows) {
            Ok(fields) => rows.read(place, &fields),
            Err(fault) => rows.refuse(&place, fault),
        }
        true
    }

    fn fields(&self, cells: &[String], place: &Place, rows: &mut Rows) -> Result<Fields, Fault> {
        let Some(header) = &self.header else { return Ok(Fields::new()) };
        let bytes = cells.iter().map(String::len).sum::<usize>();
        if bytes > ROW_BYTES_MAX {
            let message = format!("{bytes} bytes in a row (an open quote?); at most {ROW_BYTES_MAX} are allowed");
            return Err(Fault::too_large(message));
        }
        self.check_width(header, cells, place, rows)?;
        self.check_lines(header, cells, place, rows);
        let mut fields = Fields::new();
        for (at, name) in &header.columns {
            let Some(cell) = cells.get(*at) else { continue };
            fields.insert(name.clone(), value(name, cell, place, rows)?);
        }
        Ok(fields)
    }

    /// Blank cells too many are harmless, and so are cells too few if none of them is read.
    fn check_width(&self, header: &Header, cells: &[String], place: &Place, rows: &mut Rows) -> Result<(), Fault> {
        let (got, wanted) = (cells.len(), header.width);
        if got == wanted {
            return Ok(());
        }
        let is_harmless = match cells.get(wanted..) {
            Some(more) => more.iter().all(|cell| cell.trim().is_empty()),
            None => header.wanted.iter().all(|at| *at < got),
        };
        let message = format!("{got} cells under a header of {wanted}");
        if is_harmless {
            rows.findings.warn(Code::RaggedRow, place, message);
            return Ok(());
        }
        let sign = char::from(self.delimiter);
        let hint = if got > wanted && sign != '\t' {
            format!(" (a cell that holds {sign:?} wants quotes)")
        } else {
            String::new()
        };
        Err(Fault::unreadable(message + &hint))
    }

    /// A quoted cell may hold lines; lines that look like rows were probably swallowed by a quote.
    fn check_lines(&self, header: &Header, cells: &[String], place: &Place, rows: &mut Rows) {
        let sign = char::from(self.delimiter);
        let is_row = |line: &&str| header.width > 1 && line.matches(sign).count() + 1 == header.width;
        let swallowed: usize = cells.iter().map(|cell| cell.lines().skip(1).filter(is_row).count()).sum();
        if swallowed > 0 {
            rows.findings.warn(
                Code::QuotedCell,
                place,
                format!("a quoted cell holds {swallowed} lines that look like rows"),
            );
        }
    }
}

/// Whether a table's first line is a row. Says so where it could be either.
fn is_row(first: First, line: usize, cells: &[String], rows: &mut Rows) -> bool {
    let shown = format!("{:?}", Excerpt(&cells.join(" | ")));
    match first {
        First::Header => false,
        First::ProbablyHeader => {
            let message = format!("the first line was read as a header: {shown}");
            rows.findings.warn(Code::ColumnChoice, &Place::of_line(line), message);
            false
        }
        First::Row => {
            rows.findings.warn(Code::NoHeader, &Place::of_line(line), shown);
            true
        }
    }
}

/// Only labels, words, tags and spans may be lists.
fn value(name: &str, text: &str, place: &Place, rows: &mut Rows) -> Result<Value, Fault> {
    let is_text = match rows.family {
        DatasetFamily::Ner => NER_TEXT.contains(&name),
        _ => [TEXT, TEXT_PAIR, A, B].iter().any(|names| names.contains(&name)),
    };
    let is_asked = rows.options.text_column.as_deref() == Some(name) && rows.family != DatasetFamily::Ner;
    if (is_text || is_asked) && rows.options.label_column.as_deref() != Some(name) {
        return Ok(Value::String(text.to_owned()));
    }
    match cells::read(text) {
        Cell::Plain(value) => Ok(value),
        Cell::Printed(value) => {
            rows.findings.warn(Code::ListCell, place, format!("{:?}", Excerpt(text)));
            Ok(value)
        }
        Cell::Broken => {
            let text = Excerpt(text);
            Err(Fault::unreadable(format!("field {name:?} is {text:?}, which begins and ends as a list and is none")))
        }
    }
}

fn read_tabs(text: &str, table: &mut Table, rows: &mut Rows) {
    for record in tabs::Records::of(text) {
        if rows.is_over(record.cells.iter().map(String::len).sum()) {
            return;
        }
        let is_header = table.header.is_none();
        if !table.record(record.line, &record.cells, rows) {
            return;
        }
        if record.is_quoted && !is_header {
            let place = Place { row: rows.seen(), ..Place::of_line(record.line + table.lines_before) };
            rows.findings.warn(Code::QuotedCell, &place, format!("{:?}", Excerpt(&record.cells.join(" | "))));
        }
    }
}

fn read_csv(text: &str, table: &mut Table, rows: &mut Rows) {
    let given = Counter::new(0);
    let record_by_record = RecordByRecord { bytes: text.as_bytes(), given: &given };
    let mut reader = ReaderBuilder::new()
        .delimiter(table.delimiter)
        .has_headers(false)
        .flexible(true)
        .buffer_capacity(BUFFER_BYTES)
        .from_reader(record_by_record);
    let mut record = StringRecord::new();
    loop {
        given.set(0);
        let outcome = reader.read_record(&mut record);
        if rows.is_over(record.as_slice().len()) {
            return;
        }
        match outcome {
            Ok(true) => {
                let line = record.position().map_or(0, |position| position.line() as usize);
                let cells: Vec<String> = record.iter().map(str::to_owned).collect();
                if !table.record(line, &cells, rows) {
                    return;
                }
            }
            Ok(false) => return,
            Err(e) => return rows.fail(&Place::of_line(line_of(&reader) + table.lines_before), unread(&e)),
        }
    }
}

fn line_of(reader: &Reader<RecordByRecord<'_>>) -> usize {
    reader.position().line() as usize
}

fn unread(error: &csv::Error) -> Fault {
    match error.is_io_error() {
        true => Fault::too_large(format!("a row that has no end within {ROW_BYTES_MAX} bytes (an open quote?)")),
        false => Fault::unreadable(error.to_string()),
    }
}

/// A text for the CSV reader, which reads a record whole, however long: past the bound of a row it gets an error instead.
struct RecordByRecord<'a> {
    bytes: &'a [u8],
    /// Bytes given since the last record was complete.
    given: &'a Counter<usize>,
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
