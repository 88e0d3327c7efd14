//! Pages of a Parquet file as the parquet crate's decoders get them: each looked at first, since a decoder makes room for as many
//! values as a page says, and lists of a thousand million are written in five bytes.

use std::fmt;

use parquet::basic::{Encoding, Type};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::RowGroupReader;
use parquet::record::reader::RowIter;
use parquet::schema::types::{ColumnDescriptor, Type as SchemaType};

use super::thrift::Thrift;
use crate::training::dataset::limits::WORDS_MAX;

/// A bound that a page passes, as the cause of a [`ParquetError`].
#[derive(Debug)]
pub(super) struct Bound(String);

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Bound {}

fn broken(message: impl Into<String>) -> ParquetError {
    ParquetError::General(message.into())
}

pub(super) fn bound(message: String) -> ParquetError {
    ParquetError::External(Box::new(Bound(message)))
}

/// A row group whose pages are looked at.
pub(super) struct CheckedGroup<'a>(pub(super) Box<dyn RowGroupReader + 'a>);

impl RowGroupReader for CheckedGroup<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.0.metadata()
    }

    fn num_columns(&self) -> usize {
        self.0.num_columns()
    }

    fn get_column_page_reader(&self, i: usize) -> Result<Box<dyn PageReader>> {
        let column = self.metadata().column(i).column_descr();
        Ok(Box::new(CheckedPages {
            pages: self.0.get_column_page_reader(i)?,
            kind: column.physical_type(),
            has_lists: column.max_rep_level() > 0,
            has_nulls: column.max_def_level() > 0,
            longest: Longest::default(),
        }))
    }

    fn get_column_bloom_filter(&self, _: usize) -> Option<&Sbbf> {
        None
    }

    fn get_row_iter(&self, projection: Option<SchemaType>) -> Result<RowIter<'_>> {
        RowIter::from_row_group(projection, self)
    }
}

/// Whether a column is of a kind that is looked at: text, numbers and truth values, in one list at most.
pub(super) fn is_readable(column: &ColumnDescriptor) -> bool {
    let kind = column.physical_type();
    column.max_rep_level() <= 1 && !matches!(kind, Type::INT96 | Type::FIXED_LEN_BYTE_ARRAY)
}

struct CheckedPages {
    pages: Box<dyn PageReader>,
    kind: Type,
    has_lists: bool,
    has_nulls: bool,
    longest: Longest,
}

impl CheckedPages {
    fn check(&mut self, page: &Page) -> Result<()> {
        match page {
            Page::DictionaryPage { buf, num_values, encoding, .. } => {
                self.check_dictionary(buf.len(), *num_values as usize, *encoding)
            }
            Page::DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, .. } => {
                let (mut values, count) = (&buf[..], *num_values as usize);
                if self.has_lists {
                    let levels = take_levels(&mut values, *rep_level_encoding)?;
                    self.longest.read(levels, count)?;
                }
                if self.has_nulls {
                    take_levels(&mut values, *def_level_encoding)?;
                }
                check_values(values, count, *encoding)
            }
            Page::DataPageV2 { buf, num_values, encoding, def_levels_byte_len, rep_levels_byte_len, .. } => {
                let (count, repetitions) = (*num_values as usize, *rep_levels_byte_len as usize);
                let short = || broken("a page is shorter than its levels");
                let (levels, rest) = buf.split_at_checked(repetitions).ok_or_else(short)?;
                if self.has_lists {
                    self.longest.read(levels, count)?;
                }
                let values = rest.get(*def_levels_byte_len as usize..).ok_or_else(short)?;
                check_values(values, count, *encoding)
            }
        }
    }

    /// A decoder makes room for as many entries as the header says; each takes its width at least.
    fn check_dictionary(&self, bytes: usize, entries: usize, encoding: Encoding) -> Result<()> {
        let width = match self.kind {
            Type::INT64 | Type::DOUBLE => 8,
            _ => 4,
        };
        let is_plain = matches!(encoding, Encoding::PLAIN | Encoding::PLAIN_DICTIONARY);
        if is_plain && entries.saturating_mul(width) <= bytes {
            return Ok(());
        }
        Err(broken(format!("a dictionary of {bytes} bytes, encoded as {encoding}, cannot have {entries} entries")))
    }
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        page.as_ref().map_or(Ok(()), |page| self.check(page)).map(|()| page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        Err(broken("no page is skipped"))
    }
}

/// Levels of a page of the first version, behind their length.
fn take_levels<'a>(bytes: &mut &'a [u8], encoding: Encoding) -> Result<&'a [u8]> {
    if encoding != Encoding::RLE {
        return Err(broken(format!("levels are encoded as {encoding}; RLE is wanted")));
    }
    let short = || broken("a page is shorter than its levels");
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
    let (levels, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(short)?;
    *bytes = rest;
    Ok(levels)
}

/// Encodings in which a page of some bytes cannot stand for values of many more, a dictionary apart, which is counted.
fn check_values(bytes: &[u8], count: usize, encoding: Encoding) -> Result<()> {
    match encoding {
        Encoding::PLAIN | Encoding::PLAIN_DICTIONARY | Encoding::RLE_DICTIONARY | Encoding::RLE => Ok(()),
        Encoding::DELTA_BINARY_PACKED | Encoding::DELTA_LENGTH_BYTE_ARRAY => check_delta(bytes, count),
        other => Err(broken(format!(
            "values are encoded as {other}; PLAIN, RLE_DICTIONARY, DELTA_LENGTH_BYTE_ARRAY or DELTA_BINARY_PACKED is wanted"
        ))),
    }
}

/// The third number of a delta encoding is how many values follow, for which its decoder makes room.
fn check_delta(bytes: &[u8], count: usize) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let mut thrift = Thrift::of(bytes);
    let mut number = || thrift.varint().map_err(|_| broken("the header of a delta encoding is broken"));
    let [_block, _parts, said] = [number()?, number()?, number()?];
    match said > count as u64 {
        true => Err(broken(format!("a page of {count} values holds {said} of them"))),
        false => Ok(()),
    }
}

/// The longest list so far: lists are read whole.
#[derive(Default)]
struct Longest {
    /// Values of the list at the end of what was read.
    open: usize,
}

impl Longest {
    /// Repetition levels of one bit each: 0 begins a row, 1 goes on with its list. Runs and packed groups of eight alternate.
    fn read(&mut self, levels: &[u8], count: usize) -> Result<()> {
        let mut thrift = Thrift::of(levels);
        let mut left = count;
        while left > 0 {
            let broken = |_| broken("the repetition levels of a page are broken");
            let head = thrift.varint().map_err(broken)?;
            let run = usize::try_from(head >> 1).unwrap_or(usize::MAX);
            if head & 1 == 0 {
                let goes_on = thrift.next_byte().map_err(broken)? != 0;
                self.add_run(goes_on, run.min(left))?;
                left -= run.min(left);
                if run == 0 {
                    continue;
                }
            } else {
                for _ in 0..run.min(left.div_ceil(8)) {
                    let bits = thrift.next_byte().map_err(broken)?;
                    let some = left.min(8);
                    (0..some).try_for_each(|bit| self.add_run(bits >> bit & 1 == 1, 1))?;
                    left -= some;
                }
            }
        }
        Ok(())
    }

    fn add_run(&mut self, goes_on: bool, count: usize) -> Result<()> {
        self.open = if goes_on { self.open.saturating_add(count) } else { count.min(1) };
        match self.open > WORDS_MAX {
            true => Err(bound(format!("a list of over {WORDS_MAX} values; at most {WORDS_MAX} are allowed"))),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of the list that is open at the end; none if it is too long or broken.
    fn open(levels: &[u8], count: usize) -> Option<usize> {
        let mut longest = Longest::default();
        longest.read(levels, count).ok().map(|()| longest.open)
    }

    #[test]
    fn lists_are_measured_by_their_levels() {
        assert_eq!(open(&[0b11, 0b1101_1010], 8), Some(3), "packed, lowest bit first");
        assert_eq!(open(&[0b11, 0b0000_0010], 2), Some(2), "only as many as the page has");
        assert_eq!(open(&[2, 0, 8, 1], 5), Some(5), "a run of one row's beginning, and of four that go on");
        assert_eq!(open(&[0xc0, 0xb8, 0x02, 1], 19_999), Some(19_999), "two bytes of levels");
        assert_eq!(open(&[0xc4, 0xb8, 0x02, 1], 30_000), None, "20,002 values");
        assert_eq!(open(&[0xfe, 0xff, 0xff, 0xff, 0x0f, 1], i32::MAX as usize), None, "a thousand million and more");
        assert_eq!(open(&[0, 0], 5), None, "no level at all, for ever");
        assert_eq!(open(&[2], 1), None);
    }

    #[test]
    fn a_delta_encoding_holds_no_more_than_its_page() {
        assert!(check_delta(&[128, 1, 4, 3, 0], 3).is_ok());
        assert!(check_delta(&[128, 1, 4, 3, 0], 2).is_err());
        assert!(check_delta(&[128, 1, 4, 255, 255, 255, 255, 15, 0], 1000).is_err());
        assert!(check_values(&[], 0, Encoding::DELTA_BYTE_ARRAY).is_err(), "each value may repeat the one before");
    }
}
