//! CoNLL columns: a line a word, a blank line after each sentence. Which column is which is `layout`'s matter.

mod layout;

use crate::domain::Excerpt;
use crate::training::dataset::findings::Code;
use crate::training::dataset::limits::{ROW_BYTES_MAX, WORDS_MAX};
use crate::training::dataset::place::Place;
use crate::training::dataset::row::{Fault, Rows, tagged};
use crate::training::dataset::tags::is_tag;

use layout::{Layout, columns};

/// Characters of a sentence's id in a comment.
const ID_CHARS_MAX: usize = 64;

/// A sentence as far as it is read.
#[derive(Default)]
struct Sentence {
    place: Place,
    words: Vec<String>,
    tags: Vec<String>,
    /// Of its lines.
    bytes: usize,
    fault: bool,
    /// From a comment before it.
    id: Option<String>,
    /// What the sentence's column has.
    name: String,
}

pub(super) fn read(text: &str, rows: &mut Rows) {
    let layout = Layout::of(text, rows);
    let mut header_ahead = layout.has_header;
    let mut sentence = Sentence::default();
    for (at, line) in text.lines().enumerate() {
        if rows.is_over(line.len()) {
            return;
        }
        let line = line.trim_end_matches([' ', '\t', '\r']);
        if line.is_empty() || line.starts_with("-DOCSTART-") {
            std::mem::take(&mut sentence).keep(rows);
        } else if !std::mem::take(&mut header_ahead) {
            sentence.read(at + 1, line, &layout, rows);
        }
    }
    sentence.keep(rows);
}

impl Sentence {
    fn read(&mut self, line: usize, text: &str, layout: &Layout, rows: &mut Rows) {
        if let Err(fault) = self.count(text) {
            return self.refuse(line, fault, rows);
        }
        let columns = columns(text, layout.separator);
        if self.words.is_empty() && text.starts_with('#') && is_comment(&columns, layout) {
            self.id = id(text).or(self.id.take());
            self.bytes = 0;
            return rows.findings.warn(Code::Comment, &Place::of_line(line), format!("{:?}", Excerpt(text)));
        }
        if layout.has_index && columns.first().is_some_and(|index| index.contains(['-', '.'])) {
            return rows.findings.warn(
                Code::Comment,
                &Place::of_line(line),
                format!("{:?} is no word's index", columns[0]),
            );
        }
        self.begin(&columns, layout, rows);
        self.place_at(line, rows);
        match check(text, &columns, layout) {
            Ok((word, tag)) => {
                let tag = rows.clean_tag(tag.to_owned(), &self.place);
                self.words.push(word.to_owned());
                self.tags.push(tag);
            }
            Err(fault) => self.refuse(line, fault, rows),
        }
    }

    /// Ends the sentence before, where a column names sentences.
    fn begin(&mut self, columns: &[&str], layout: &Layout, rows: &mut Rows) {
        let name = layout.sentence.and_then(|at| columns.get(at).copied()).unwrap_or_default();
        if !name.is_empty() && name != self.name {
            std::mem::take(self).keep(rows);
            name.clone_into(&mut self.name);
        }
    }

    /// The sentence is where its first line is.
    fn place_at(&mut self, line: usize, rows: &mut Rows) {
        if self.place.is_file() {
            self.place = rows.place(line).called(self.id.take().map(serde_json::Value::from).as_ref());
        }
    }

    /// Refuses the sentence for the first thing that is wrong with it.
    fn refuse(&mut self, line: usize, fault: Fault, rows: &mut Rows) {
        self.place_at(line, rows);
        if !std::mem::replace(&mut self.fault, true) {
            rows.refuse(&Place { line, ..self.place.clone() }, fault);
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
        match tagged(self.words, self.tags, &self.place, rows) {
            Ok(example) => rows.keep(self.place, example),
            Err(fault) => rows.refuse(&self.place, fault),
        }
    }
}

/// A line with a `#`, as CoNLL-U, GermEval and MultiCoNER have them before a sentence: one that is not made as the others.
fn is_comment(columns: &[&str], layout: &Layout) -> bool {
    let is_tagged = layout.tag(columns).is_some_and(is_tag);
    !is_tagged || (layout.width > 0 && columns.len() != layout.width)
}

/// `# sent_id = 7`, `# id 7 domain=en`.
fn id(comment: &str) -> Option<String> {
    let comment = comment.trim_start_matches('#').trim();
    let value = ["sent_id", "sent-id", "id", "guid"].iter().find_map(|name| comment.strip_prefix(name))?;
    let value = value.trim_start_matches([' ', '=', ':', '\t']).split_whitespace().next()?;
    Some(value.chars().take(ID_CHARS_MAX).collect())
}

/// The word of a line, and its tag.
fn check<'a>(line: &'a str, columns: &[&'a str], layout: &Layout) -> Result<(&'a str, &'a str), Fault> {
    if columns.len() < 2 {
        return Err(Fault::unreadable("one column; a word first and its tag last are wanted"));
    }
    let (Some(word), Some(tag)) = (layout.word(line, columns), layout.tag(columns)) else {
        let (word, tag) = (layout.word + 1, layout.tag.map_or(columns.len(), |tag| tag + 1));
        let got = columns.len();
        return Err(Fault::unreadable(format!(
            "{got} columns; a word in column {word} and a tag in column {tag} are wanted"
        )));
    };
    match (is_tag(tag), word.is_empty()) {
        (true, false) => Ok((word, tag)),
        (true, true) => Err(Fault::unreadable("a tag without a word")),
        (false, _) => Err(Fault {
            code: Code::TagScheme,
            message: format!(
                "tag {:?}; \"O\" or an entity type behind B-, I-, E-, S-, L-, U- or M- is wanted",
                Excerpt(tag)
            ),
        }),
    }
}
