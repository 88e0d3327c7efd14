//! Tags to entity spans, under seqeval's two readings: forgiving (its default mode) and strict IOB2.

use std::ops::Range;

use crate::domain::Tag;

/// An entity: its type, and the words it spans.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Span<'a> {
    pub label: &'a str,
    pub words: Range<usize>,
}

/// How tags that break the scheme are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Any tag that cannot go on with the entity before it opens one: `O I-PER` holds a PER.
    Forgiving,
    /// An entity is a `B-X` and the `I-X` right after it; everything else is outside.
    StrictIob2,
}

/// The entities of one sentence as seqeval's default mode finds them, in order. Reads IOB1, IOB2 and BIOES alike.
pub fn spans(tags: &[String]) -> Vec<Span<'_>> {
    read(tags, Reading::Forgiving)
}

pub(super) fn read(tags: &[String], reading: Reading) -> Vec<Span<'_>> {
    let mut spans: Vec<Span<'_>> = Vec::new();
    let mut before = Tag::Outside;
    for (at, tag) in tags.iter().map(|tag| Tag::parse(tag)).enumerate() {
        if let Some(label) = tag.label() {
            // An open span always ends at the word before, so going on is lengthening the last one.
            match spans.last_mut().filter(|last| last.words.end == at && goes_on(before, tag)) {
                Some(open) => open.words.end = at + 1,
                None if reading == Reading::Forgiving || matches!(tag, Tag::Begin(_)) => {
                    spans.push(Span { label, words: at..at + 1 });
                }
                None => {}
            }
        }
        before = tag;
    }
    spans
}

/// Whether `tag` belongs to the entity of the word before it.
fn goes_on(before: Tag<'_>, tag: Tag<'_>) -> bool {
    let open = matches!(before, Tag::Begin(_) | Tag::Inside(_));
    open && matches!(tag, Tag::Inside(_) | Tag::End(_)) && before.label() == tag.label()
}
