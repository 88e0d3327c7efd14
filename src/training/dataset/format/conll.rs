//! CoNLL columns: a word first, its tag last, a blank line after each sentence.

use crate::domain::Excerpt;
use crate::training::dataset::findings::Code;
use crate::training::dataset::limits::{ROW_BYTES_MAX, WORDS_MAX};
use crate::training::dataset::row::{Fault, Rows, tagged};
use crate::training::dataset::tags::is_tag;

/// A sentence as far as it is read.
#[derive(Default)]
struct Sentence {
    first_line: usize,
    words: Vec<String>,
    tags: Vec<String>,
    /// Of its lines.
    bytes: usize,
    fault: bool,
}

pub(super) fn read(text: &str, rows: &mut Rows) {
    let mut sentence = Sentence::default();
    for (at, line) in text.lines().enumerate() {
        if rows.is_over(line.len()) {
            return;
        }
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
        if let Err(fault) = self.count(text) {
            if !std::mem::replace(&mut self.fault, true) {
                rows.refuse(line, fault);
            }
            return;
        }
        let columns = columns(text);
        let tag = columns.last().copied().unwrap_or_default();
        if self.words.is_empty() && text.starts_with('#') && !is_tag(tag) {
            self.bytes = 0;
            return; // a comment, as CoNLL-U and MultiCoNER have them
        }
        if self.words.is_empty() {
            self.first_line = line;
        }
        match check(&columns) {
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

    /// Before a line is taken apart: a file without blank lines is one sentence.
    fn count(&mut self, text: &str) -> Result<(), Fault> {
        self.bytes += text.len();
        if self.bytes > ROW_BYTES_MAX {
            return Err(Fault::too_large(format!("over {ROW_BYTES_MAX} bytes up to here without a blank line")));
        }
        if self.words.len() == WORDS_MAX {
            return Err(Fault::too_large(format!("over {WORDS_MAX} words up to here without a blank line")));
        }
        Ok(())
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
fn check<'a>(columns: &[&'a str]) -> Result<&'a str, Fault> {
    match columns {
        [word, .., tag] if is_tag(tag) && !word.is_empty() => Ok(*word),
        [_, .., tag] if is_tag(tag) => Err(Fault::unreadable("a tag without a word")),
        [_, .., tag] => Err(Fault {
            code: Code::TagScheme,
            message: format!(
                "tag {:?}; \"O\" or an entity type behind B-, I-, E-, S-, L-, U- or M- is wanted",
                Excerpt(tag)
            ),
        }),
        _ => Err(Fault::unreadable("one column; a word first and its tag last are wanted")),
    }
}
