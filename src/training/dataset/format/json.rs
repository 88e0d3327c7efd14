//! JSON lines, and one JSON array of objects over any number of lines.

use crate::training::dataset::limits::ROW_BYTES_MAX;
use crate::training::dataset::place::Place;
use crate::training::dataset::row::{Fault, Fields, Rows, kind};
use serde_json::Value;

pub(super) fn read_lines(text: &str, rows: &mut Rows) {
    for (at, line) in text.lines().enumerate() {
        if rows.is_over(line.len()) {
            return;
        }
        if !line.trim().is_empty() {
            read_object(at + 1, line, rows);
        }
    }
}

pub(super) fn read_array(text: &str, rows: &mut Rows) {
    for (line, element) in Elements::of(text) {
        if rows.is_over(element.len()) {
            return;
        }
        read_object(line, element, rows);
    }
    if !text.trim_end().ends_with(']') {
        let end = Place { row: rows.seen(), ..Place::of_line(text.lines().count()) };
        rows.refuse(&end, Fault::unreadable("no \"]\" at the end of the JSON array"));
    }
}

fn read_object(line: usize, text: &str, rows: &mut Rows) {
    let place = rows.place(line);
    match parse(text) {
        Ok(fields) => rows.read(place, &fields),
        Err(fault) => rows.refuse(&place, fault),
    }
}

/// Whether the first line is a row of spaCy's, and so each line is one.
pub(super) fn is_list_line(text: &str) -> bool {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    parse(line).is_ok()
}

fn parse(text: &str) -> Result<Fields, Fault> {
    if text.len() > ROW_BYTES_MAX {
        return Err(Fault::too_large(format!("{} bytes in a row; at most {ROW_BYTES_MAX} are allowed", text.len())));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(Value::Array(parts)) => text_and_annotation(parts),
        Ok(other) => Err(Fault::unreadable(format!("{}; an object is wanted", kind(&other)))),
        Err(e) => {
            let reason = e.to_string();
            let reason = reason.split(" at line ").next().unwrap_or_default();
            Err(Fault::unreadable(format!("not JSON at column {}: {reason}", e.column())))
        }
    }
}

/// spaCy's `["text", {"entities": […]}]`.
fn text_and_annotation(parts: Vec<Value>) -> Result<Fields, Fault> {
    match <[Value; 2]>::try_from(parts) {
        Ok([text @ Value::String(_), Value::Object(mut fields)]) => {
            fields.insert("text".to_owned(), text);
            Ok(fields)
        }
        _ => Err(Fault::unreadable("a list; an object is wanted")),
    }
}

/// Cuts an array into its elements by brackets and quotes alone; whether an element is JSON shows when it is read.
struct Elements<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Elements<'a> {
    /// `text` begins with `[` after spaces.
    fn of(text: &'a str) -> Self {
        let at = text.find('[').map_or(text.len(), |open| open + 1);
        Self { text, at, line: 1 + count_lines(&text[..at]) }
    }

    /// Where the element that begins at `self.at` ends: at a comma or bracket of the array itself.
    fn end(&self) -> usize {
        let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
        for (at, byte) in self.text.bytes().enumerate().skip(self.at) {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                _ if in_string => {}
                b'{' | b'[' => depth += 1,
                b',' | b']' if depth == 0 => return at,
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        self.text.len()
    }
}

impl<'a> Iterator for Elements<'a> {
    /// The line on which it begins, and its text.
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.text;
        let end = self.end();
        let element = &text[self.at..end];
        let start = self.at + (element.len() - element.trim_start().len());
        let line = self.line + count_lines(&text[self.at..start]);
        let is_last = text.as_bytes().get(end) != Some(&b',');
        self.line += count_lines(element);
        self.at = if is_last { text.len() } else { end + 1 };
        // Nothing before the closing bracket: an empty array, or a comma too many, which is harmless.
        if is_last && element.trim().is_empty() { None } else { Some((line, element.trim())) }
    }
}

fn count_lines(text: &str) -> usize {
    text.bytes().filter(|&byte| byte == b'\n').count()
}
