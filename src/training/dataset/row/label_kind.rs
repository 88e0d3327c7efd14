//! Whether a file's rows have one label each or sets of them, and how sure that is.

use crate::training::dataset::findings::{Code, Findings, Lines};

/// How a row gives its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// As one.
    One,
    /// As a list, of however many.
    List,
    /// As a list, of a file that says that its classes exclude each other.
    Exclusive,
    /// As a list, of a file that says that they do not.
    Several,
}

/// What the rows say together.
#[derive(Debug, Default)]
pub(super) struct LabelKind {
    single_lists: Lines,
    /// Some list has no label or more than one, or its file says that it may.
    has_sets: bool,
}

impl LabelKind {
    pub(super) fn add(&mut self, given: Given, labels: usize, place: &crate::training::dataset::place::Place) {
        match given {
            Given::List if labels == 1 => self.single_lists.add(place),
            Given::List | Given::Several => self.has_sets = true,
            Given::One | Given::Exclusive => {}
        }
    }

    pub(super) fn is_multi_label(&self) -> bool {
        self.has_sets || self.single_lists.count > 0
    }

    /// A warning where lists are all that speaks for sets.
    pub(super) fn report(&self, findings: &mut Findings) {
        if !self.has_sets {
            let hint = "multi_label=false reads one label a row, of classes that exclude each other";
            findings.warn_of_lines(Code::SingleLists, &self.single_lists, hint);
        }
    }
}
