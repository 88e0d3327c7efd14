//! What the columns of a Parquet file come to once their dictionaries are written out: counted by looking at the values, which share
//! their bytes, before one row is made of them.

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::Result;
use parquet::file::reader::RowGroupReader;

use super::claims::over;
use super::pages::bound;
use crate::training::dataset::limits::{EXAMPLES_BYTES_MAX, ROW_BYTES_MAX, UNPACKED_BYTES_MAX, string_bytes};
use crate::training::dataset::row::{Fault, Rows};

/// Rows of a column that are looked at, or made, at once: lists of them may be long.
pub(super) const ROWS_A_BATCH: usize = 16;

/// Of all columns so far.
#[derive(Default)]
pub(super) struct Measure {
    text: usize,
    memory: usize,
}

/// Why a column is not measured to its end.
pub(super) enum Unmeasured {
    Fault(Fault),
    Broken(parquet::errors::ParquetError),
    /// A bound of the whole file, or nobody waits any more; the rows know.
    Over,
}

impl From<parquet::errors::ParquetError> for Unmeasured {
    fn from(error: parquet::errors::ParquetError) -> Self {
        Self::Broken(error)
    }
}

impl Measure {
    /// Adds column `at` of a row group, which must have a value or list for each of its rows.
    pub(super) fn add(&mut self, group: &dyn RowGroupReader, at: usize, rows: &mut Rows) -> Result<(), Unmeasured> {
        match group.get_column_reader(at)? {
            ColumnReader::ByteArrayColumnReader(column) => self.walk(column, group, at, rows, ByteArray::len),
            ColumnReader::BoolColumnReader(column) => self.walk(column, group, at, rows, |_| 0),
            ColumnReader::Int32ColumnReader(column) => self.walk(column, group, at, rows, |_| 0),
            ColumnReader::Int64ColumnReader(column) => self.walk(column, group, at, rows, |_| 0),
            ColumnReader::FloatColumnReader(column) => self.walk(column, group, at, rows, |_| 0),
            ColumnReader::DoubleColumnReader(column) => self.walk(column, group, at, rows, |_| 0),
            // Not among the columns that are read.
            ColumnReader::Int96ColumnReader(column) => self.walk(column, group, at, rows, |_| 0),
            ColumnReader::FixedLenByteArrayColumnReader(column) => self.walk(column, group, at, rows, |_| 0),
        }
    }

    fn walk<T: DataType>(
        &mut self,
        mut column: ColumnReaderImpl<T>,
        group: &dyn RowGroupReader,
        at: usize,
        rows: &mut Rows,
        length: impl Fn(&T::T) -> usize,
    ) -> Result<(), Unmeasured> {
        let metadata = group.metadata();
        let described = metadata.column(at).column_descr();
        let wanted = usize::try_from(metadata.num_rows()).unwrap_or_default();
        let (mut read, mut batch) = (0, Batch::default());
        while read < wanted {
            batch.clear();
            let most = ROWS_A_BATCH.min(wanted - read);
            let (records, _, _) = column.read_records(
                most,
                Some(&mut batch.definitions),
                Some(&mut batch.repetitions),
                &mut batch.values,
            )?;
            if records == 0 {
                let name = described.path().string();
                let message = format!("column {name:?} ends after {read} of the {wanted} rows of its group");
                return Err(Unmeasured::Fault(Fault::unreadable(message)));
            }
            read += records;
            let bytes = self.count(&batch, described.max_def_level(), &length)?;
            if rows.is_over(bytes) {
                return Err(Unmeasured::Over);
            }
        }
        Ok(())
    }

    /// The bytes of a batch. Fails at the first row, and at the first file, that is over.
    fn count<T>(&mut self, batch: &Batch<T>, whole: i16, length: impl Fn(&T) -> usize) -> Result<usize, Unmeasured> {
        let (mut bytes, mut of_row) = (0, 0);
        let mut values = batch.values.iter();
        for at in 0..batch.values.len().max(batch.definitions.len()) {
            if batch.repetitions.get(at).is_none_or(|level| *level == 0) {
                of_row = 0;
            }
            let is_there = batch.definitions.get(at).is_none_or(|level| *level == whole);
            let Some(value) = is_there.then(|| values.next()).flatten() else { continue };
            let length = length(value);
            of_row += length;
            bytes += length;
            self.text += length;
            self.memory += string_bytes(length);
            if of_row > ROW_BYTES_MAX {
                return Err(bound(format!(
                    "over {ROW_BYTES_MAX} bytes in a row; at most {ROW_BYTES_MAX} are allowed"
                )))?;
            }
        }
        for (what, got, max) in [
            ("bytes of text once dictionaries are written out", self.text, UNPACKED_BYTES_MAX),
            ("bytes in memory", self.memory, EXAMPLES_BYTES_MAX),
        ] {
            if got > max {
                return Err(Unmeasured::Fault(over(what, got, max)));
            }
        }
        Ok(bytes)
    }
}

/// Some rows of one column; levels are missing where a column needs none.
struct Batch<T> {
    values: Vec<T>,
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self { values: Vec::new(), definitions: Vec::new(), repetitions: Vec::new() }
    }
}

impl<T> Batch<T> {
    fn clear(&mut self) {
        self.values.clear();
        self.definitions.clear();
        self.repetitions.clear();
    }
}
