//! Parquet files: columns by name, class numbers to names where Hugging Face's schema has them. What a file says of itself is not
//! believed: its claims are held to the bounds first, then what its values come to, and only then rows are made.

mod claims;
mod measure;
mod pages;
mod thrift;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::{FileMetaData, ParquetStatisticsPolicy};
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};
use parquet::record::reader::TreeBuilder;
use parquet::record::{Field, Row};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type};
use serde_json::{Number, Value};

use crate::training::dataset::limits::{ROW_BYTES_MAX, ROWS_MAX};
use crate::training::dataset::options::ReadOptions;
use crate::training::dataset::place::Place;
use crate::training::dataset::row::{Fault, Fields, Rows, check_label_length, is_read};

use claims::{PageClaims, check_footer, over};
use measure::{Measure, ROWS_A_BATCH, Unmeasured};
use pages::{Bound, CheckedGroup, is_readable};

pub(super) use claims::MAGIC;

/// Names of a column's classes, by number.
type ClassNames = HashMap<String, Vec<String>>;

/// The parquet crate panics on some damaged files where it should fail; this is where that ends.
pub(super) fn read(bytes: &[u8], rows: &mut Rows) {
    let outcome = catch_unwind(AssertUnwindSafe(|| read_file(bytes, rows)));
    if let Err(fault) = outcome.unwrap_or_else(|_| Err(Fault::unreadable("the Parquet file is broken"))) {
        rows.fail(&Place::file(), fault);
    }
}

fn read_file(bytes: &[u8], rows: &mut Rows) -> Result<(), Fault> {
    check_footer(bytes)?;
    let skip = ParquetStatisticsPolicy::SkipAll;
    let options = ReadOptionsBuilder::new()
        .with_column_stats_policy(skip.clone())
        .with_encoding_stats_policy(skip.clone())
        .with_size_stats_policy(skip)
        .build();
    let file = SerializedFileReader::new_with_options(Bytes::copy_from_slice(bytes), options).map_err(broken)?;
    check_rows(&file)?;
    let classes = class_names(file.metadata().file_metadata())?;
    let columns = columns(&file, &rows.options).map_err(broken)?;
    check_columns(bytes, &file, &columns)?;
    if !classes.is_empty() {
        rows.declare_names();
    }
    if measure(&file, &columns, rows)? {
        read_rows(&file, &columns, &classes, rows).map_err(broken)?;
    }
    Ok(())
}

fn broken(error: ParquetError) -> Fault {
    match error {
        ParquetError::External(cause) if cause.is::<Bound>() => Fault::too_large(cause.to_string()),
        error => Fault::unreadable(format!(
            "the Parquet file cannot be read: {error} (compression may be none, snappy, gzip or zstd)"
        )),
    }
}

/// The rows of all groups are those of the file, and not too many.
fn check_rows(file: &SerializedFileReader<Bytes>) -> Result<(), Fault> {
    let said = file.metadata().file_metadata().num_rows();
    let mut groups = file.metadata().row_groups().iter().map(|group| group.num_rows());
    let sum = groups.try_fold(0i64, |sum, rows| sum.checked_add(rows).filter(|_| rows >= 0));
    match usize::try_from(said) {
        Ok(rows) if rows > ROWS_MAX => Err(over("rows", rows, ROWS_MAX)),
        Ok(_) if sum == Some(said) => Ok(()),
        _ => Err(Fault::unreadable(format!("the Parquet file says {said} rows, its row groups others"))),
    }
}

/// The part of a file's schema that is read, and where its columns are.
struct Columns {
    schema: SchemaDescPtr,
    at: Vec<usize>,
}

/// Fields that some family reads by their name, if they can be read: of the others nothing is unpacked.
fn columns(file: &SerializedFileReader<Bytes>, options: &ReadOptions) -> Result<Columns, ParquetError> {
    let whole = file.metadata().file_metadata().schema_descr();
    let root_of = |at: usize| whole.get_column_root(at).name();
    let is_wanted = |name: &str| {
        let readable = |at: usize| root_of(at) != name || is_readable(&whole.column(at));
        is_read(&name.to_lowercase(), options) && (0..whole.num_columns()).all(readable)
    };
    let fields = whole.root_schema().get_fields().iter().filter(|field| is_wanted(field.name())).cloned().collect();
    let root = Type::group_type_builder(whole.name()).with_fields(fields).build()?;
    let at = (0..whole.num_columns()).filter(|&at| is_wanted(root_of(at))).collect();
    Ok(Columns { schema: Arc::new(SchemaDescriptor::new(Arc::new(root))), at })
}

/// What the columns that are read say of their pages.
fn check_columns(bytes: &[u8], file: &SerializedFileReader<Bytes>, columns: &Columns) -> Result<(), Fault> {
    let mut claims = PageClaims::default();
    for group in file.metadata().row_groups() {
        columns.at.iter().try_for_each(|&at| claims.add(bytes, group.column(at)))?;
    }
    Ok(())
}

/// Whether rows may be made: false where nobody waits for them any more.
fn measure(file: &SerializedFileReader<Bytes>, columns: &Columns, rows: &mut Rows) -> Result<bool, Fault> {
    let mut measure = Measure::default();
    for at in 0..file.num_row_groups() {
        let group = CheckedGroup(file.get_row_group(at).map_err(broken)?);
        for &column in &columns.at {
            match measure.add(&group, column, rows) {
                Ok(()) => {}
                Err(Unmeasured::Over) => return Ok(false),
                Err(Unmeasured::Fault(fault)) => return Err(fault),
                Err(Unmeasured::Broken(error)) => return Err(broken(error)),
            }
        }
    }
    Ok(true)
}

fn read_rows(
    file: &SerializedFileReader<Bytes>,
    columns: &Columns,
    classes: &ClassNames,
    rows: &mut Rows,
) -> Result<(), ParquetError> {
    let mut line = 0;
    for at in 0..file.num_row_groups() {
        let group = CheckedGroup(file.get_row_group(at)?);
        for row in TreeBuilder::new().with_batch_size(ROWS_A_BATCH).as_iter(columns.schema.clone(), &group)? {
            let fields = fields(&row?, classes);
            line += 1;
            if rows.is_over(fields.values().map(text_bytes).sum()) {
                return Ok(());
            }
            let place = rows.place(line);
            rows.read(place, &fields);
        }
    }
    Ok(())
}

fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(text_bytes).sum(),
        Value::Object(fields) => fields.values().map(text_bytes).sum(),
        _ => 0,
    }
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
fn class_names(metadata: &FileMetaData) -> Result<ClassNames, Fault> {
    let written = metadata.key_value_metadata().into_iter().flatten().find(|pair| pair.key == "huggingface");
    let Some(schema) = written.and_then(|pair| pair.value.as_deref()) else { return Ok(ClassNames::new()) };
    if schema.len() > ROW_BYTES_MAX {
        return Err(over("bytes in Hugging Face's schema", schema.len(), ROW_BYTES_MAX));
    }
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    let features = schema.pointer("/info/features").and_then(Value::as_object);
    let names = |feature: &Value| {
        let names = feature.get("names").or_else(|| feature.pointer("/feature/names"))?;
        serde_json::from_value::<Vec<String>>(names.clone()).ok()
    };
    let named = |(name, feature): (&String, &Value)| Some((name.to_lowercase(), names(feature)?));
    let classes: ClassNames = features.into_iter().flatten().filter_map(named).collect();
    classes.values().flatten().try_for_each(|name| check_label_length(name))?;
    Ok(classes)
}
