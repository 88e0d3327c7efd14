//! Which columns of a column file are its words and its tags: as the caller says, as a header names them, or as the first lines show.

use crate::training::dataset::findings::Code;
use crate::training::dataset::limits::NAMES_SHOWN_MAX;
use crate::training::dataset::options::WordAndTag;
use crate::training::dataset::place::Place;
use crate::training::dataset::row::Rows;
use crate::training::dataset::tags::is_tag;

/// Lines and bytes that are looked at: some hundred sentences.
const LINES_PROBED: usize = 2000;
const BYTES_PROBED: usize = 256 << 10;

/// Share of the lines with a tag in a column of tags; the others are the file's errors.
const TAGS_SHARE_MIN: f64 = 0.9;

/// Types of the phrases that CoNLL-2000 and CoNLL-2003 have beside entities.
const PHRASES: &[&str] = &["NP", "VP", "PP", "ADVP", "ADJP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP"];

/// Names of columns, in a header.
const WORD_NAMES: &[&str] = &["word", "words", "token", "tokens", "form", "text"];
const TAG_NAMES: &[&str] =
    &["tag", "tags", "ner", "ner_tag", "ner_tags", "label", "labels", "entity", "bio", "iob", "iob2"];
const SENTENCE_NAMES: &[&str] =
    &["sentence #", "sentence", "sentence_id", "sent_id", "sentence_number", "sent", "sentence id"];

/// What parts the columns of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Separator {
    /// Tabs where a line has any, so that a word may hold spaces; else spaces.
    Blanks,
    Sign(char),
}

/// Where a line has its word and its tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) separator: Separator,
    pub(super) word: usize,
    /// None: in the last column.
    pub(super) tag: Option<usize>,
    /// The first column counts the words.
    pub(super) has_index: bool,
    /// A column with a name for each sentence.
    pub(super) sentence: Option<usize>,
    /// The first line names the columns.
    pub(super) has_header: bool,
    /// Columns of nearly every line; 0 where they differ.
    pub(super) width: usize,
}

/// The columns of a line.
pub(super) fn columns(line: &str, separator: Separator) -> Vec<&str> {
    match separator {
        Separator::Blanks if line.contains('\t') => line.split('\t').map(str::trim).collect(),
        Separator::Blanks => line.split(' ').filter(|column| !column.is_empty()).collect(),
        Separator::Sign(sign) => signed(line, sign),
    }
}

/// Cells of a line, which may be in quotes.
fn signed(line: &str, sign: char) -> Vec<&str> {
    let mut cells = Vec::new();
    let mut rest = line;
    loop {
        let quoted = rest.strip_prefix('"').and_then(|inner| {
            let end =
                inner.find(&['"', sign].iter().collect::<String>()).or_else(|| inner.strip_suffix('"').map(str::len));
            end.map(|end| (&inner[..end], &inner[end + 1..]))
        });
        let (cell, behind) = quoted.unwrap_or_else(|| {
            let end = rest.find(sign).unwrap_or(rest.len());
            (&rest[..end], &rest[end..])
        });
        cells.push(cell.trim());
        match behind.strip_prefix(sign) {
            Some(behind) => rest = behind,
            None => return cells,
        }
    }
}

impl Layout {
    /// Says in `rows` what was chosen where there was a choice.
    pub(super) fn of(text: &str, rows: &mut Rows) -> Self {
        let lines = probe(text);
        if let Some(asked) = rows.options.columns {
            return Self::asked(asked, &lines);
        }
        let separator = separator(&lines, |columns| columns.iter().any(|column| is_tag(column)));
        let sentences = split(&lines, separator);
        Self::named(&sentences, separator).unwrap_or_else(|| Self::seen(&sentences, separator, rows))
    }

    fn asked(WordAndTag { word, tag }: WordAndTag, lines: &[&str]) -> Self {
        let separator = separator(lines, |columns| columns.get(tag).is_some_and(|tag| is_tag(tag)));
        let sentences = split(lines, separator);
        let width = width(&sentences);
        let has_index = word > 0 && counts(&sentences);
        let has_header = sentences.iter().flatten().next().is_some_and(|first| names(first).is_some());
        Self { separator, word, tag: Some(tag), has_index, sentence: None, has_header, width }
    }

    /// The columns that a header names.
    fn named(sentences: &[Vec<Vec<&str>>], separator: Separator) -> Option<Self> {
        let first = sentences.iter().flatten().next()?;
        let (word, tag, sentence) = names(first)?;
        let width = first.len();
        Some(Self { separator, word, tag: Some(tag), has_index: false, sentence, has_header: true, width })
    }

    /// The columns that hold tags and words in nearly every line.
    fn seen(sentences: &[Vec<Vec<&str>>], separator: Separator, rows: &mut Rows) -> Self {
        let width = width(sentences);
        let has_index = width > 2 && counts(sentences);
        let tags = tag_columns(sentences, width);
        let tag = tags.first().copied();
        let word = (0..width).find(|at| Some(*at) != tag && (*at > 0 || !has_index)).unwrap_or(0);
        warn_of_choice(sentences, word, &tags, width, rows);
        let tag = tag.filter(|tag| tag + 1 != width);
        Self { separator, word, tag, has_index, sentence: None, has_header: false, width }
    }

    pub(super) fn tag<'a>(&self, columns: &[&'a str]) -> Option<&'a str> {
        match self.tag {
            Some(at) => columns.get(at).copied(),
            None => columns.last().copied(),
        }
    }

    /// The word; in a file of words and tags parted by a sign, the sign may be the word itself.
    pub(super) fn word<'a>(&self, line: &'a str, columns: &[&'a str]) -> Option<&'a str> {
        match self.separator {
            Separator::Sign(sign) if columns.len() > self.width && self.word == 0 && self.tag.is_none() => {
                let behind: usize =
                    columns[columns.len() + 1 - self.width..].iter().map(|column| column.len() + 1).sum();
                line.get(..line.len().checked_sub(behind)?).map(|word| word.trim_matches('"')).filter(|_| sign != ' ')
            }
            _ => columns.get(self.word).copied(),
        }
    }
}

/// Places of the word, the tag and maybe the sentence, if these cells are names of columns.
fn names(cells: &[&str]) -> Option<(usize, usize, Option<usize>)> {
    let find = |names: &[&str]| cells.iter().position(|cell| names.contains(&cell.to_lowercase().as_str()));
    // Of Kaggle's "Sentence #,Word,POS,Tag" the last is the entity's; "tag" may also be a part of speech.
    let tag = cells.iter().rposition(|cell| TAG_NAMES.contains(&cell.to_lowercase().as_str()))?;
    let word = find(WORD_NAMES).filter(|word| *word != tag)?;
    Some((word, tag, find(SENTENCE_NAMES).filter(|at| *at != word && *at != tag)))
}

/// The first lines; blank ones part sentences, and those that are surely no words are left out.
fn probe(text: &str) -> Vec<&str> {
    let mut bytes = 0;
    let within = |line: &&str| {
        bytes += line.len() + 1;
        bytes <= BYTES_PROBED
    };
    let is_token = |line: &&str| !line.starts_with("-DOCSTART-") && !line.starts_with('#');
    let lines = text.lines().take(LINES_PROBED).take_while(within);
    lines.map(|line| line.trim_end_matches([' ', '\t', '\r'])).filter(is_token).collect()
}

fn split<'a>(lines: &[&'a str], separator: Separator) -> Vec<Vec<Vec<&'a str>>> {
    let sentences = lines.split(|line| line.is_empty()).filter(|sentence| !sentence.is_empty());
    sentences.map(|sentence| sentence.iter().map(|line| columns(line, separator)).collect()).collect()
}

/// The first separator under which most lines are as `fits` wants them.
fn separator(lines: &[&str], fits: impl Fn(&[&str]) -> bool) -> Separator {
    let tokens = lines.iter().filter(|line| !line.is_empty()).count();
    let separators = [Separator::Blanks, Separator::Sign(','), Separator::Sign(';'), Separator::Sign('|')];
    let is_right = |separator: &Separator| {
        let columns = lines.iter().map(|line| columns(line, *separator));
        2 * columns.filter(|columns| columns.len() > 1 && fits(columns)).count() > tokens
    };
    separators.into_iter().find(is_right).unwrap_or(Separator::Blanks)
}

/// How many columns most lines have; a tie goes to fewer.
fn width(sentences: &[Vec<Vec<&str>>]) -> usize {
    let mut counts = std::collections::BTreeMap::<usize, usize>::new();
    sentences.iter().flatten().for_each(|line| *counts.entry(line.len()).or_default() += 1);
    counts.iter().max_by_key(|(width, count)| (**count, std::cmp::Reverse(**width))).map_or(0, |(width, _)| *width)
}

/// Whether the first column counts the words of each sentence, or of the file, from 0 or 1. Ranges and decimals, which CoNLL-U has for
/// words that are written as one or not at all, do not count.
fn counts(sentences: &[Vec<Vec<&str>>]) -> bool {
    let (mut last, mut lines) = (None, 0);
    for sentence in sentences {
        for (at, line) in sentence.iter().enumerate() {
            let first = line.first().copied().unwrap_or_default();
            let is_between = first.starts_with(|c: char| c.is_ascii_digit()) && first.contains(['-', '.']);
            if is_between && first.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | '.')) {
                continue;
            }
            let Ok(number) = first.parse::<usize>() else { return false };
            let begins = at == 0 && number <= 1;
            if !begins && last.is_some_and(|last: usize| number != last + 1) || (last.is_none() && number > 1) {
                return false;
            }
            last = Some(number);
            lines += 1;
        }
    }
    lines > 1
}

/// Columns of tags, the one that is read first: the one with most entities, and of equals the last. Phrases are no entities.
fn tag_columns(sentences: &[Vec<Vec<&str>>], width: usize) -> Vec<usize> {
    let lines = || sentences.iter().flatten().filter(|line| line.len() == width);
    let total = lines().count();
    let share = |at: usize| lines().filter(|line| is_tag(line[at])).count() as f64 / total as f64;
    let tags: Vec<usize> = (0..width).filter(|at| total > 0 && share(*at) >= TAGS_SHARE_MIN).collect();
    let types = |at: usize| lines().filter_map(move |line| line[at].split_once('-')).map(|(_, label)| label);
    let is_phrases = |at: &usize| types(*at).next().is_some() && types(*at).all(|label| PHRASES.contains(&label));
    let entities: Vec<usize> = tags.iter().copied().filter(|at| !is_phrases(at)).collect();
    let mut tags = if entities.is_empty() { tags } else { entities };
    tags.sort_by_key(|at| std::cmp::Reverse((types(*at).count(), *at)));
    tags
}

fn warn_of_choice(sentences: &[Vec<Vec<&str>>], word: usize, tags: &[usize], width: usize, rows: &mut Rows) {
    let Some(tag) = tags.first() else { return };
    let mut choice = |what: String| rows.findings.warn(Code::ColumnChoice, &Place::file(), what);
    let asked = |tag: usize| format!("columns=word:{},tag:{}", word + 1, tag + 1);
    if let Some(other) = tags.get(1) {
        let others: Vec<String> = tags[1..].iter().take(NAMES_SHOWN_MAX).map(|tag| (tag + 1).to_string()).collect();
        let others = others.join(", ");
        choice(format!(
            "column {} was read as the tag; column {others} has tags, too: {} reads it",
            tag + 1,
            asked(*other)
        ));
    } else if tag + 1 != width {
        choice(format!("column {} of {width} was read as the tag: the only one with tags", tag + 1));
    }
    let mut words = sentences.iter().flatten().filter_map(|line| line.get(word)).peekable();
    let is_number = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    if words.peek().is_some() && words.all(is_number) {
        choice(format!("the words of column {} are numbers; columns=word:N,tag:M names another", word + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Cancel;
    use crate::training::dataset::{DatasetFamily, ReadOptions};

    #[test]
    fn words_and_tags_are_found_where_they_are() {
        let check = |text: &str, separator: Separator, word: usize, tag: Option<usize>, warnings: usize| {
            let mut rows = Rows::new(DatasetFamily::Ner, &ReadOptions::default(), &Cancel::default());
            let layout = Layout::of(text, &mut rows);
            assert_eq!((layout.separator, layout.word, layout.tag), (separator, word, tag), "{text:?}");
            assert_eq!(rows.findings.finish().1.len(), warnings, "{text:?}");
        };
        let blanks = Separator::Blanks;
        check("Anna B-PER\nin O\n", blanks, 0, None, 0);
        check("EU NNP B-NP B-ORG\nsays VB B-VP O\n", blanks, 0, None, 0);
        check("1\tAnna\tB-PER\tO\n2\tin\tO\tO\n\n1\tBonn\tB-LOC\tO\n", blanks, 1, Some(2), 1);
        check("0 Anna B-PER\n1 in O\n", blanks, 1, None, 0);
        check(
            "1-2\tim\t_\n1\tin\tO\n2\tdem\tO\n3\tKiel\tB-LOC\n4\t.\tO\n5\tX\tO\n6\tY\tO\n7\tZ\tO\n8\tA\tO\n9\tB\tO\n",
            blanks,
            1,
            None,
            0,
        );
        check("B-PER\tAnna\nO\tin\n", blanks, 1, Some(0), 1);
        check("Anna,B-PER\nin,O\n", Separator::Sign(','), 0, None, 0);
        check("Anna;B-PER\nin;O\n", Separator::Sign(';'), 0, None, 0);
        check("Sentence #,Word,POS,Tag\nSentence: 1,Anna,NNP,B-PER\n,in,IN,O\n", Separator::Sign(','), 1, Some(3), 0);
        check("12 B-NUM\n14 O\n", blanks, 0, None, 1);
        check("a O\nb PER\n", blanks, 0, None, 0);
    }

    #[test]
    fn a_cell_in_quotes_may_hold_the_sign() {
        let check = |line: &str, wanted: &[&str]| assert_eq!(signed(line, ','), wanted, "{line}");
        check("a,O", &["a", "O"]);
        check("\",\",O", &[",", "O"]);
        check("\"a\",\"O\"", &["a", "O"]);
        check(",,O", &["", "", "O"]);
        check("\"a,O", &["\"a", "O"]);
    }
}
