//! Label names that were probably meant to be one.

use std::collections::BTreeMap;

/// A name one letter from another is suspicious only if it is this much rarer: `card_fee` and `card_fees` may both be meant.
const RARER_BY: usize = 10;

/// Names shorter than this are often one letter apart on purpose.
const NAME_CHARS_MIN: usize = 4;

/// Pairs that are reported: names that are all alike are no typos any more.
const TYPOS_MAX: usize = 100;

/// (the rarer name, the other): equal but for case, spaces, `-` and `_`; or one letter apart and much rarer.
pub(super) fn typos<'a>(labels: &BTreeMap<&'a str, usize>) -> Vec<(&'a str, &'a str)> {
    let named: Vec<(&str, usize, Vec<char>)> =
        labels.iter().map(|(label, count)| (*label, *count, normalise(label))).collect();
    let mut found = Vec::new();
    for (at, a) in named.iter().enumerate() {
        for b in &named[at + 1..] {
            let (rare, frequent) = if a.1 <= b.1 { (a, b) } else { (b, a) };
            if rare.2 == frequent.2 || (rare.1 * RARER_BY <= frequent.1 && one_letter_apart(&rare.2, &frequent.2)) {
                found.push((rare.0, frequent.0));
                if found.len() == TYPOS_MAX {
                    return found;
                }
            }
        }
    }
    found
}

fn normalise(label: &str) -> Vec<char> {
    label.to_lowercase().chars().filter(|c| !c.is_whitespace() && !matches!(c, '-' | '_')).collect()
}

/// One letter put in, left out or replaced; a digit that differs (`room1`, `room2`) is meant.
fn one_letter_apart(a: &[char], b: &[char]) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    if short.len() < NAME_CHARS_MIN || long.len() - short.len() > 1 {
        return false;
    }
    let same = short.iter().zip(long).take_while(|(a, b)| a == b).count();
    let digits = |at: usize| [short.get(at), long.get(at)].into_iter().flatten().any(|c| c.is_ascii_digit());
    let skip = usize::from(short.len() == long.len());
    !digits(same) && short[(same + skip).min(short.len())..] == long[(same + 1).min(long.len())..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_meant_ones_left_alone() {
        let check = |names: &[(&str, usize)], wanted: &[(&str, &str)]| {
            assert_eq!(typos(&names.iter().copied().collect()), wanted, "{names:?}");
        };
        check(&[("PER", 9), ("per", 2)], &[("per", "PER")]);
        check(&[("card fee", 5), ("card_fee", 5)], &[("card fee", "card_fee")]);
        check(&[("location", 100), ("locaton", 2)], &[("locaton", "location")]);
        check(&[("location", 100), ("locations", 2)], &[("locations", "location")]);
        check(&[("location", 100), ("lokation", 10)], &[("lokation", "location")]);
        check(&[("location", 100), ("lokation", 11)], &[]);
        check(&[("location", 100), ("vacation", 1)], &[]);
        check(&[("room1", 100), ("room2", 1)], &[]);
        check(&[("room", 100), ("room2", 1)], &[]);
        check(&[("LOC", 100), ("LOG", 1)], &[]);
    }
}
