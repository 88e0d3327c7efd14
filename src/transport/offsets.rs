//! Byte positions of a text in the caller's unit.

use crate::domain::OffsetUnit;

/// Counts forward from where it stands; positions asked for in text order cost one pass over the text in all.
pub(super) struct OffsetCounter<'a> {
    text: &'a [u8],
    unit: OffsetUnit,
    byte: usize,
    units: usize,
}

impl<'a> OffsetCounter<'a> {
    pub(super) fn new(text: &'a str, unit: OffsetUnit) -> Self {
        Self { text: text.as_bytes(), unit, byte: 0, units: 0 }
    }

    /// How many units lie before byte `byte`.
    pub(super) fn at(&mut self, byte: usize) -> usize {
        if byte < self.byte {
            (self.byte, self.units) = (0, 0);
        }
        let byte = byte.min(self.text.len());
        self.units += self.text[self.byte..byte].iter().map(|&b| self.units_of(b)).sum::<usize>();
        self.byte = byte;
        self.units
    }

    /// A character counts at its first byte.
    fn units_of(&self, byte: u8) -> usize {
        let continues = byte & 0b1100_0000 == 0b1000_0000;
        match self.unit {
            OffsetUnit::Byte => 1,
            _ if continues => 0,
            OffsetUnit::Char => 1,
            OffsetUnit::Utf16 => 1 + usize::from(byte >= 0xF0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_counts_as_its_language_does() {
        for text in ["", "Anna", "Kraków 🦀 e\u{301}", "👩‍👩‍👧 日本語\0"] {
            for (byte, _) in text.char_indices().chain([(text.len(), ' ')]) {
                let before = &text[..byte];
                let at = |unit| OffsetCounter::new(text, unit).at(byte);
                assert_eq!(at(OffsetUnit::Byte), byte);
                assert_eq!(at(OffsetUnit::Char), before.chars().count());
                assert_eq!(at(OffsetUnit::Utf16), before.encode_utf16().count());
            }
        }
    }

    #[test]
    fn positions_may_come_in_any_order() {
        let mut counter = OffsetCounter::new("ä🦀b", OffsetUnit::Utf16);
        assert_eq!([7, 2, 6, 0, 99].map(|byte| counter.at(byte)), [4, 1, 3, 0, 4]);
    }
}
