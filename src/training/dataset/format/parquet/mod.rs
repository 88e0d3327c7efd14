//! Parquet files: columns by name, class numbers to names where Hugging Face's schema has them.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::FileMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Number, Value};

use crate::training::dataset::findings::Code;
use crate::training::dataset::limits::{ROWS_MAX, UNPACKED_BYTES_MAX};
use crate::training::dataset::row::{Fault, Fields, Rows};

pub(super) const MAGIC: &[u8] = b"PAR1";

/// Names of a column's classes, by number.
type ClassNames = HashMap<String, Vec<String>>;

/// The parquet crate panics on some damaged files where it should fail; this is where that ends.
pub(super) fn read(bytes: &[u8], rows: &mut Rows) {
    let outcome = catch_unwind(AssertUnwindSafe(|| read_file(bytes, rows)));
    if let Err(fault) = outcome.unwrap_or_else(|_| Err(Fault::unreadable("the Parquet file is broken"))) {
        rows.refuse(0, fault);
    }
}

fn read_file(bytes: &[u8], rows: &mut Rows) -> Result<(), Fault> {
    let broken = |e: ParquetError| {
        Fault::unreadable(format!(
            "the Parquet file cannot be read: {e} (compression may be none, snappy, gzip or zstd)"
        ))
    };
    let reader = SerializedFileReader::new(Bytes::copy_from_slice(bytes)).map_err(broken)?;
    check_size(&reader)?;
    let classes = class_names(reader.metadata().file_metadata());
    for (at, row) in reader.get_row_iter(None).map_err(broken)?.enumerate() {
        rows.read(at + 1, &fields(&row.map_err(broken)?, &classes));
    }
    Ok(())
}

/// What the file says of itself, before any of it is unpacked.
fn check_size(reader: &SerializedFileReader<Bytes>) -> Result<(), Fault> {
    let too_large = |message| Fault { code: Code::TooLarge, message };
    let rows = reader.metadata().file_metadata().num_rows();
    if usize::try_from(rows).is_ok_and(|rows| rows > ROWS_MAX) {
        return Err(too_large(format!("{rows} rows; at most {ROWS_MAX} are allowed")));
    }
    let bytes: i64 = reader.metadata().row_groups().iter().map(|group| group.total_byte_size()).sum();
    if usize::try_from(bytes).is_ok_and(|bytes| bytes > UNPACKED_BYTES_MAX) {
        return Err(too_large(format!("{bytes} bytes unpacked; at most {UNPACKED_BYTES_MAX} are allowed")));
    }
    Ok(())
}

fn fields(row: &Row, classes: &ClassNames) -> Fields {
    let column = |(name, field): (&String, &Field)| {
        let name = name.to_lowercase();
        let value = value(field, classes.get(&name).map_or(&[], Vec::as_slice));
        (name, value)
    };
    row.get_column_iter().map(column).collect()
}

/// The types that labelled text needs; others are null, which no field may be.
fn value(field: &Field, classes: &[String]) -> Value {
    match field {
        Field::Str(text) => Value::String(text.clone()),
        Field::Bytes(text) => std::str::from_utf8(text.data()).map_or(Value::Null, Value::from),
        Field::Bool(value) => Value::Bool(*value),
        Field::Float(value) => number(f64::from(*value)),
        Field::Double(value) => number(*value),
        Field::ListInternal(list) => list.elements().iter().map(|field| value(field, classes)).collect(),
        Field::Group(row) => {
            Value::Object(row.get_column_iter().map(|(name, field)| (name.clone(), value(field, &[]))).collect())
        }
        other => integer(other).map_or(Value::Null, |class| class_value(class, classes)),
    }
}

fn integer(field: &Field) -> Option<i64> {
    match field {
        Field::Byte(value) => Some((*value).into()),
        Field::Short(value) => Some((*value).into()),
        Field::Int(value) => Some((*value).into()),
        Field::Long(value) => Some(*value),
        Field::UByte(value) => Some((*value).into()),
        Field::UShort(value) => Some((*value).into()),
        Field::UInt(value) => Some((*value).into()),
        Field::ULong(value) => i64::try_from(*value).ok(),
        _ => None,
    }
}

fn class_value(class: i64, classes: &[String]) -> Value {
    let name = usize::try_from(class).ok().and_then(|class| classes.get(class));
    name.map_or_else(|| Value::Number(class.into()), |name| Value::String(name.clone()))
}

fn number(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// `ClassLabel` names from the schema that Hugging Face's `datasets` writes: `info.features.COLUMN[.feature].names`.
fn class_names(metadata: &FileMetaData) -> ClassNames {
    let written = metadata.key_value_metadata().into_iter().flatten().find(|pair| pair.key == "huggingface");
    let schema: Value = written.and_then(|pair| serde_json::from_str(pair.value.as_deref()?).ok()).unwrap_or_default();
    let features = schema.pointer("/info/features").and_then(Value::as_object);
    let names = |feature: &Value| {
        let names = feature.get("names").or_else(|| feature.pointer("/feature/names"))?;
        serde_json::from_value::<Vec<String>>(names.clone()).ok()
    };
    features.into_iter().flatten().filter_map(|(name, feature)| Some((name.to_lowercase(), names(feature)?))).collect()
}
