//! The names nearest to a mistyped one.

/// More would not be read.
const SUGGESTIONS_MAX: usize = 3;

/// The nearest of `known`, best first; none that shares too little with `wanted` to be meant.
pub(super) fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let close = |name: &&str| edits(wanted, name) <= (wanted.len().max(name.len()) / 2).max(1);
    let mut names: Vec<&str> = known.filter(close).collect();
    names.sort_by_key(|name| (edits(wanted, name), *name));
    names.truncate(SUGGESTIONS_MAX);
    names
}

/// Levenshtein distance in bytes: names are ASCII.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_inserted_removed_and_replaced_letters() {
        let check = |a, b, expected| assert_eq!((edits(a, b), edits(b, a)), (expected, expected), "{a} {b}");
        check("", "", 0);
        check("", "abc", 3);
        check("spam", "spam", 0);
        check("spam", "spma", 2);
        check("kitten", "sitting", 3);
    }

    #[test]
    fn near_names_come_first_and_far_ones_not_at_all() {
        let known = ["bank-intents", "people-places", "people", "spam"];
        let check = |wanted, expected: &[&str]| assert_eq!(nearest(wanted, known.into_iter()), expected, "{wanted}");
        check("peple-places", &["people-places"]);
        check("poeple", &["people"]);
        check("bank_intent", &["bank-intents"]);
        check("xyz", &[]);
    }
}
