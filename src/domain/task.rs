//! Task families, and what a head's outputs mean.

use std::fmt;
use std::str::FromStr;

use crate::domain::Error;

/// A task family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Token classification.
    Ner,
    /// Sequence classification.
    Classify,
}

impl Family {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ner => "ner",
            Self::Classify => "classify",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Family {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "ner" => Ok(Self::Ner),
            "classify" => Ok(Self::Classify),
            _ => Err(Error::invalid(format!("family {s:?} is neither \"ner\" nor \"classify\""))),
        }
    }
}

/// How a sequence head's logits become scores: one label holds (softmax), or any number does (sigmoid).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProblemType {
    #[default]
    SingleLabel,
    MultiLabel,
}

impl ProblemType {
    /// Hugging Face's name in `config.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SingleLabel => "single_label_classification",
            Self::MultiLabel => "multi_label_classification",
        }
    }
}

impl FromStr for ProblemType {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "single_label_classification" => Ok(Self::SingleLabel),
            "multi_label_classification" => Ok(Self::MultiLabel),
            _ => Err(Error::invalid(format!(
                "problem type {s:?} is neither \"single_label_classification\" nor \"multi_label_classification\""
            ))),
        }
    }
}

/// What an adapter's head gives scores for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HeadForm {
    /// The labels it was trained with.
    #[default]
    Labels,
    /// Entity types by name, given with each request; tokens are compared with them.
    Concepts,
    /// Classes by name, given with each request; whole texts are compared with them.
    Similarity,
}

impl HeadForm {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Concepts => "concepts",
            Self::Similarity => "similarity",
        }
    }

    /// The family of a head that compares with names.
    pub fn family(self) -> Option<Family> {
        match self {
            Self::Labels => None,
            Self::Concepts => Some(Family::Ner),
            Self::Similarity => Some(Family::Classify),
        }
    }
}

impl FromStr for HeadForm {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        [Self::Labels, Self::Concepts, Self::Similarity]
            .into_iter()
            .find(|form| form.as_str() == s)
            .ok_or_else(|| Error::invalid(format!("head {s:?} is none of \"labels\", \"concepts\" and \"similarity\"")))
    }
}
