//! Tags of any scheme (IOB1, IOB2, BIOES, BILOU, BMES) to IOB2.

use crate::domain::{Excerpt, Tag};
use crate::training::spans;

use super::findings::{Code, Findings, Lines};
use super::place::Place;

/// How the entities of a file open, which tells whether it mixes schemes.
#[derive(Debug, Default)]
pub(super) struct Schemes {
    /// Lines with an entity whose first tag is `I-` (all of them in IOB1).
    inside_first: Lines,
    /// Whether an entity opens with `B-` or `S-` where IOB1 needs none.
    begins: bool,
}

impl Schemes {
    /// The same entities in IOB2. Fails with the place of the first broken tag, and what is wrong with it.
    pub(super) fn convert(&mut self, tags: &[String], place: &Place) -> Result<Vec<String>, (usize, String)> {
        if let Some(at) = tags.iter().position(|tag| !is_tag(tag)) {
            let wanted = "\"O\" or an entity type behind B-, I-, E-, S-, L-, U- or M- is wanted";
            return Err((at, format!("tag {:?}; {wanted}", Excerpt(&tags[at]))));
        }
        let mut stored = vec!["O".to_owned(); tags.len()];
        let mut before: Option<(&str, usize)> = None;
        for span in spans(tags) {
            let needs_begin = before == Some((span.label, span.words.start));
            match Tag::parse(&tags[span.words.start]) {
                Tag::Begin(_) | Tag::Single(_) => self.begins |= !needs_begin,
                _ => self.inside_first.add(place),
            }
            before = Some((span.label, span.words.end));
            stored[span.words.start] = format!("B-{}", span.label);
            stored[span.words.clone()].iter_mut().skip(1).for_each(|tag| *tag = format!("I-{}", span.label));
        }
        Ok(stored)
    }

    /// A warning where the file cannot have been of one scheme.
    pub(super) fn report(self, findings: &mut Findings) {
        if self.begins {
            findings.warn_of_lines(Code::MixedTagScheme, &self.inside_first, "");
        }
    }
}

/// Whether `tag` is `O` or has a known prefix and a type.
pub(super) fn is_tag(tag: &str) -> bool {
    let typed = |(prefix, label): (&str, &str)| {
        matches!(prefix, "B" | "I" | "E" | "S" | "L" | "U" | "M") && !label.trim().is_empty()
    };
    tag == "O" || tag.split_once('-').is_some_and(typed)
}
