//! CoNLL columns: a word first, its tag last, a blank line after each sentence.

use crate::training::dataset::findings::Code;
use crate::training::dataset::limits::ROW_BYTES_MAX;
use crate::training::dataset::row::{Fault, Rows, tagged};
use crate::training::dataset::tags::is_tag;

/// A sentence as far as it is read.
#[derive(Default)]
struct Sentence {
    first_line: usize,
    words: Vec<String>,
    tags: Vec<String>,
    fault: bool,
}

pub(super) fn read(text: &str, rows: &mut Rows) {
    let mut sentence = Sentence::default();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_end_matches([' ', '\t', '\r']);
        if line.is_empty() || line.starts_with("-DOCSTART-") {
            std::mem::take(&mut sentence).keep(rows);
        } else {
            sentence.read(at + 1, line, rows);
        }
    }
    sentence.keep(rows);
}

impl Sentence {
    fn read(&mut self, line: usize, text: &str, rows: &mut Rows) {
        let columns = columns(text);
        let tag = columns.last().copied().unwrap_or_default();
        if self.words.is_empty() && text.starts_with('#') && !is_tag(tag) {
            return; // a comment, as CoNLL-U and MultiCoNER have them
        }
        if self.words.is_empty() {
            self.first_line = line;
        }
        match check(text, &columns) {
            Ok(word) => {
                self.words.push(word.to_owned());
                self.tags.push(tag.to_owned());
            }
            Err(fault) => {
                self.fault = true;
                rows.refuse(line, fault);
            }
        }
    }

    fn keep(self, rows: &mut Rows) {
        if self.fault || self.words.is_empty() {
            return;
        }
        match tagged(self.words, self.tags, self.first_line, rows) {
            Ok(example) => rows.keep(self.first_line, example),
            Err(fault) => rows.refuse(self.first_line, fault),
        }
    }
}

/// Parted at tabs if there are any, so that a word may hold spaces.
fn columns(line: &str) -> Vec<&str> {
    if line.contains('\t') {
        line.split('\t').map(str::trim).collect()
    } else {
        line.split(' ').filter(|c| !c.is_empty()).collect()
    }
}

/// The word of a line with a tag.
fn check<'a>(line: &str, columns: &[&'a str]) -> Result<&'a str, Fault> {
    if line.len() > ROW_BYTES_MAX {
        let message = format!("{} bytes in a line; at most {ROW_BYTES_MAX} are allowed", line.len());
        return Err(Fault { code: Code::TooLarge, message });
    }
    match columns {
        [word, .., tag] if is_tag(tag) && !word.is_empty() => Ok(*word),
        [_, .., tag] if is_tag(tag) => Err(Fault::unreadable("a tag without a word")),
        [_, .., tag] => Err(Fault {
            code: Code::TagScheme,
            message: format!("tag {tag:?}; \"O\" or an entity type behind B-, I-, E-, S-, L-, U- or M- is wanted"),
        }),
        _ => Err(Fault::unreadable("one column; a word first and its tag last are wanted")),
    }
}
