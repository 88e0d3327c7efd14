//! Byte ranges in the unit that a caller counts in.

use std::ops::Range;

use crate::domain::OffsetUnit;

/// The same stretches of `text`, counted in `unit`. One pass over the text, in whatever order the ranges come.
pub fn convert_ranges(text: &str, ranges: &[Range<usize>], unit: OffsetUnit) -> Vec<Range<usize>> {
    let units_of: fn(u8) -> usize = match unit {
        OffsetUnit::Byte => return ranges.to_vec(),
        OffsetUnit::Char => |byte| usize::from(begins_character(byte)),
        OffsetUnit::Utf16 => |byte| usize::from(begins_character(byte)) + usize::from(byte >= BEGINS_SURROGATES),
    };
    let mut bytes: Vec<usize> = ranges.iter().flat_map(|range| [range.start, range.end]).collect();
    bytes.sort_unstable();
    bytes.dedup();
    let (mut at, mut units) = (0, 0);
    let count = |&byte: &usize| {
        let passed = text.as_bytes().get(at..byte).unwrap_or_default();
        units += passed.iter().map(|&byte| units_of(byte)).sum::<usize>();
        at = byte;
        units
    };
    let counted: Vec<usize> = bytes.iter().map(count).collect();
    let converted = |byte| counted[bytes.binary_search(&byte).expect("every edge of a range is in the list")];
    ranges.iter().map(|range| converted(range.start)..converted(range.end)).collect()
}

/// The first byte of a character of four: beyond the basic plane, two units of UTF-16.
const BEGINS_SURROGATES: u8 = 0xF0;

/// A character counts at its first byte, so that no range, however cut, can panic here.
fn begins_character(byte: u8) -> bool {
    byte & 0b1100_0000 != 0b1000_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The range of `part` in `text`, in all three units.
    #[track_caller]
    fn check(text: &str, part: &str, byte: Range<usize>, char: Range<usize>, utf16: Range<usize>) {
        let start = text.find(part).expect("a part of the text");
        let range = start..start + part.len();
        for (unit, wanted) in [(OffsetUnit::Byte, byte), (OffsetUnit::Char, char), (OffsetUnit::Utf16, utf16)] {
            assert_eq!(convert_ranges(text, std::slice::from_ref(&range), unit), [wanted], "{unit:?} of {part:?}");
        }
    }

    #[test]
    fn each_unit_counts_what_its_language_counts() {
        check("Meet Anna", "Anna", 5..9, 5..9, 5..9);
        check("in Kraków!", "Kraków", 3..10, 3..9, 3..9);
        check("👩‍👩‍👧 Anna", "Anna", 19..23, 6..10, 9..13);
        check("cafe\u{301} Anna", "Anna", 7..11, 6..10, 6..10);
        check("שלום Anna", "שלום", 0..8, 0..4, 0..4);
        check("東京都", "京", 3..6, 1..2, 1..2);
        check("", "", 0..0, 0..0, 0..0);
    }

    #[test]
    fn ranges_may_overlap_and_come_in_any_order() {
        let ranges = [5..9, 0..9, 3..5, 0..0];
        assert_eq!(convert_ranges("é1é2é3", &ranges, OffsetUnit::Char), [3..6, 0..6, 2..3, 0..0]);
    }
}
