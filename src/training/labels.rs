//! The labels of a head, in a fixed order, from the training data.

use std::collections::BTreeSet;

use crate::domain::{Error, Family, LabelSet, Result, Tag};
use crate::training::dataset::{Example, Split};

/// NER: `O`, then `B-` and `I-` of each type, sorted; classification: sorted. Fails if there is nothing to tell apart.
pub(super) fn labels_of(split: &Split, family: Family) -> Result<LabelSet> {
    let names: BTreeSet<&str> = split.examples.iter().flat_map(names).collect();
    match family {
        Family::Ner if names.is_empty() => Err(Error::unprocessable("no row of the training data has an entity")),
        Family::Ner => {
            let tags = names.iter().flat_map(|name| [format!("B-{name}"), format!("I-{name}")]);
            LabelSet::new(std::iter::once("O".to_owned()).chain(tags).collect())
        }
        Family::Classify if names.len() < 2 && !split.multi_label => {
            Err(Error::unprocessable(format!("the training data has {} labels; at least two are wanted", names.len())))
        }
        Family::Classify => LabelSet::new(names.into_iter().map(str::to_owned).collect()),
    }
}

fn names(example: &Example) -> Vec<&str> {
    match example {
        Example::Ner { tags, .. } => tags.iter().filter_map(|tag| Tag::parse(tag).label()).collect(),
        Example::Classify { labels, .. } => labels.iter().map(String::as_str).collect(),
        Example::Pair { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ner(tags: &[&str]) -> Example {
        Example::Ner { words: vec!["w".into(); tags.len()], tags: tags.iter().map(|&tag| tag.to_owned()).collect() }
    }

    fn class(label: &str) -> Example {
        Example::Classify { text: "t".into(), text_pair: None, labels: vec![label.to_owned()] }
    }

    fn check(examples: Vec<Example>, family: Family, expected: &str) {
        let split = Split { examples, multi_label: false };
        let got = match labels_of(&split, family) {
            Ok(labels) => labels.as_slice().join(" "),
            Err(error) => error.message().to_owned(),
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn tags_are_sorted_by_type_with_outside_first() {
        check(vec![ner(&["B-PER", "O"]), ner(&["B-LOC"])], Family::Ner, "O B-LOC I-LOC B-PER I-PER");
    }

    #[test]
    fn classes_are_sorted() {
        check(vec![class("b"), class("a"), class("b")], Family::Classify, "a b");
    }

    #[test]
    fn data_with_nothing_to_tell_apart_is_refused() {
        check(vec![ner(&["O", "O"])], Family::Ner, "no row of the training data has an entity");
        check(vec![class("a")], Family::Classify, "the training data has 1 labels; at least two are wanted");
    }
}
