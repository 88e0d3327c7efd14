//! Label names that were probably meant to be one.

use std::collections::{BTreeMap, BTreeSet};

/// A name one letter from another is suspicious only if it is this much rarer: `card_fee` and `card_fees` may both be meant.
const RARER_BY: usize = 10;

/// Names shorter than this are often one letter apart on purpose.
const NAME_CHARS_MIN: usize = 4;

/// Pairs that are reported: names that are all alike are no typos any more.
const TYPOS_MAX: usize = 100;

/// A label, as it is compared.
struct Name<'a> {
    label: &'a str,
    count: usize,
    letters: Vec<char>,
}

/// (the rarer name, the other): equal but for case, spaces, `-` and `_`; or one letter apart and much rarer.
///
/// Two names are one letter apart if what is left of one without a letter is the other, or the other without a letter. So names
/// are gathered by what is left of them, and compared only within a group: near-linear in the names.
pub(super) fn typos<'a>(labels: &BTreeMap<&'a str, usize>) -> Vec<(&'a str, &'a str)> {
    let named: Vec<Name<'a>> =
        labels.iter().map(|(label, count)| Name { label, count: *count, letters: normalise(label) }).collect();
    let mut found = BTreeSet::new();
    for group in groups(&named) {
        compare(&named, group, &mut found);
        if found.len() == TYPOS_MAX {
            break;
        }
    }
    let pair = |(at, other): (usize, usize)| {
        let (rare, frequent) = in_order(&named[at], &named[other]);
        (rare.label, frequent.label)
    };
    found.into_iter().map(pair).collect()
}

/// Names that have something left in common, by their places in `named`.
fn groups(named: &[Name<'_>]) -> Vec<Vec<usize>> {
    let keys_of = |(at, name): (usize, &Name<'_>)| keys(&name.letters).into_iter().map(move |key| (key, at));
    let mut keyed: Vec<(u64, usize)> = named.iter().enumerate().flat_map(keys_of).collect();
    keyed.sort_unstable();
    let groups = keyed.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1);
    groups.map(|group| group.iter().map(|(_, at)| *at).collect()).collect()
}

/// Numbers of the name and of what is left of it without each of its letters; a digit is meant and stays. Equal texts have equal
/// numbers; different ones hardly ever, and a comparison tells them apart.
fn keys(letters: &[char]) -> Vec<u64> {
    /// Any odd number serves; this one spreads over all 64 bits.
    const BASE: u64 = 0x9e37_79b9_7f4a_7c15;
    let of = |letter: char| u64::from(u32::from(letter)) + 1;
    let mut ends = vec![(0u64, 1u64)]; // of the last letters: their number, and BASE to the power of how many they are
    for letter in letters.iter().rev() {
        let (end, power) = ends[ends.len() - 1];
        ends.push((of(*letter).wrapping_mul(power).wrapping_add(end), power.wrapping_mul(BASE)));
    }
    let mut keys = vec![ends[letters.len()].0];
    let mut start = 0u64;
    for (at, letter) in letters.iter().enumerate() {
        if letters.len() >= NAME_CHARS_MIN && !letter.is_ascii_digit() {
            let (end, power) = ends[letters.len() - at - 1];
            keys.push(start.wrapping_mul(power).wrapping_add(end));
        }
        start = start.wrapping_mul(BASE).wrapping_add(of(*letter));
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Adds the pairs of a group, until there are [`TYPOS_MAX`]. Among names by count only much rarer ones are looked at, or equal ones.
fn compare(named: &[Name<'_>], mut group: Vec<usize>, found: &mut BTreeSet<(usize, usize)>) {
    group.sort_by_key(|&at| (&named[at].letters, at));
    for equal in group.chunk_by(|&a, &b| named[a].letters == named[b].letters) {
        add(equal.iter().enumerate().flat_map(|(n, &a)| equal[n + 1..].iter().map(move |&b| (a, b))), found);
    }
    group.sort_by_key(|&at| named[at].count);
    for &rare in &group {
        let much_more = group.partition_point(|&at| named[at].count < named[rare].count * RARER_BY);
        let apart = |&&at: &&usize| one_letter_apart(&named[rare].letters, &named[at].letters);
        add(group[much_more..].iter().filter(apart).map(|&at| (rare, at)), found);
    }
}

fn add(pairs: impl Iterator<Item = (usize, usize)>, found: &mut BTreeSet<(usize, usize)>) {
    for (a, b) in pairs {
        if found.len() == TYPOS_MAX {
            return;
        }
        found.insert((a.min(b), a.max(b)));
    }
}

/// The rarer first; of two that are as frequent, the one that comes first.
fn in_order<'n, 'a>(a: &'n Name<'a>, b: &'n Name<'a>) -> (&'n Name<'a>, &'n Name<'a>) {
    if a.count <= b.count { (a, b) } else { (b, a) }
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

    /// Every name with every other.
    fn plain<'a>(labels: &BTreeMap<&'a str, usize>) -> Vec<(&'a str, &'a str)> {
        let named: Vec<_> =
            labels.iter().map(|(label, count)| Name { label, count: *count, letters: normalise(label) }).collect();
        let mut found = Vec::new();
        for (at, a) in named.iter().enumerate() {
            for b in &named[at + 1..] {
                let (rare, frequent) = in_order(a, b);
                let is_much_rarer = rare.count * RARER_BY <= frequent.count;
                if rare.letters == frequent.letters
                    || (is_much_rarer && one_letter_apart(&rare.letters, &frequent.letters))
                {
                    found.push((rare.label, frequent.label));
                }
            }
        }
        found
    }

    #[test]
    fn groups_find_what_comparing_every_name_with_every_other_finds() {
        let mut seed = 3u64;
        let mut below = |max: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % max
        };
        let mut pairs = 0;
        for _ in 0..3000 {
            let names: Vec<String> = (0..12)
                .map(|_| (0..3 + below(4)).map(|_| ['a', 'a', 'b', 'é', 'A', '1', '-'][below(7) as usize]).collect())
                .collect();
            let labels = names.iter().map(|name| (name.as_str(), [1, 2, 10, 100][below(4) as usize])).collect();
            let wanted = plain(&labels);
            pairs += wanted.len();
            assert_eq!(typos(&labels), wanted, "{labels:?}");
        }
        assert!(pairs > 500, "the names are alike often enough: {pairs}");
    }

    #[test]
    fn what_is_reported_of_names_that_are_all_alike_is_bounded() {
        let names: Vec<String> =
            (0..2000).map(|n| format!("name{}", "-".repeat(n % 50) + &"_".repeat(n / 50))).collect();
        assert_eq!(typos(&names.iter().map(|name| (name.as_str(), 1)).collect()).len(), TYPOS_MAX);
    }
}
