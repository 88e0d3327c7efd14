//! What nobody may send: data that is large once it is read, that costs more than its size, or that says one thing and holds another.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use parquet::basic::{Compression, Encoding, GzipLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use trunkline::domain::{Cancel, Error, ErrorKind};
use trunkline::serving::DatasetService;
use trunkline::training::dataset::{DatasetFamily, DoctorReport, ReadOptions, Reading, Split, read, read_split};

use super::{Classify, MAX_LENGTH, Ner, Pairs, examine, finding, show};

/// Bytes of a report as a client gets it, whatever was sent: findings of each kind, with three quotations each.
const REPORT_BYTES_MAX: usize = 16 << 10;

/// Refused with `code`, for a reason that has `words` in it; the answer is short.
#[track_caller]
fn refuses(family: DatasetFamily, data: &[u8], code: &str, words: &str) {
    let (report, split) = examine(family, data);
    assert!(split.is_none(), "accepted");
    let found = finding(&report.errors, code);
    assert!(found.message.contains(words), "{:?} lacks {words:?}", found.message);
    let bytes = report.problems().iter().map(String::len).sum::<usize>();
    assert!(bytes < REPORT_BYTES_MAX, "{bytes} bytes of problems");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(bytes).expect("memory");
    gzip.finish().expect("memory")
}

fn zeros(count: usize) -> Vec<u8> {
    vec![b' '; count]
}

#[test]
fn a_table_with_a_million_columns_is_refused_in_a_few_words() {
    refuses(Classify, &gzip("column,".repeat(2_000_000).as_bytes()), "too_large", "no end within 1048576 bytes");
    refuses(Classify, "c,".repeat(5000).as_bytes(), "too_large", "a header of 5001 columns");
    refuses(Classify, "c,".repeat(900).as_bytes(), "unreadable_row", "and 881 more; a column called");
    let long = format!("{},label\n", "x".repeat(100_000));
    refuses(Classify, long.as_bytes(), "unreadable_row", "x\"…, \"label\"; a column called");
    let open = format!("text,label\na,x\n\"{}", "b,y\n".repeat(1 << 20));
    refuses(Classify, open.as_bytes(), "too_large", "a row that has no end");
}

#[test]
fn labels_are_counted_before_they_are_compared() {
    let rows: String = (0..200_000).map(|n| format!("{{\"text\":\"t {n}\",\"label\":\"label{n}\"}}\n")).collect();
    refuses(Classify, rows.as_bytes(), "too_large", "line 2048: 2048 labels up to here; at most 2047");
    let (report, _) = examine(Classify, rows.as_bytes());
    assert_eq!((report.rows, report.labels.len()), (2047, 2048), "nothing is read behind the bound");
    let labels: Vec<_> = (0..60_000).map(|n| format!("\"{n:x}\"")).collect();
    let row = format!("{{\"text\":\"t\",\"labels\":[{}]}}\n", labels.join(","));
    refuses(Classify, row.as_bytes(), "too_large", "60000 labels; at most 2047");
    let same = format!("{{\"text\":\"t\",\"labels\":[{}]}}\n", vec!["\"a\""; 60_000].join(","));
    refuses(Classify, same.as_bytes(), "too_large", "60000 labels; at most 2047");
}

#[test]
fn a_label_is_measured_before_it_is_written_to_each_word_of_its_span() {
    let (text, label) = ("a ".repeat(10_000), "L".repeat(100_000));
    let span = format!(r#"{{"text":"{text}","spans":[{{"start":0,"end":19999,"label":"{label}"}}]}}"#);
    refuses(Ner, span.as_bytes(), "too_large", "has 100000 bytes; at most 256");
    let tagged = format!(r#"{{"tokens":["a"],"tags":["B-{label}"]}}"#);
    refuses(Ner, tagged.as_bytes(), "too_large", "has 100000 bytes; at most 256");
    refuses(Ner, format!("a B-X\nAnna {label}\n").as_bytes(), "tag_scheme", "LLL\"…; \"O\" or an entity type");
}

#[test]
fn sentences_without_an_end_are_not_kept_to_their_end() {
    refuses(Ner, "a O\n".repeat(100_000).as_bytes(), "too_large", "line 20001: over 20000 words");
    refuses(Ner, format!("{} O\n", "a b ".repeat(1 << 20)).as_bytes(), "too_large", "over 1048576 bytes");
    refuses(Ner, format!("{} O\n", "abcd ".repeat(10_000)).repeat(30).as_bytes(), "too_large", "line 21: over");
}

#[test]
fn a_row_with_many_wrong_spans_is_left_after_a_few() {
    let row = |text: &str, span: &str, count: usize| {
        format!(r#"{{"text":"{text}","entities":[{}]}}"#, vec![span; count].join(","))
    };
    refuses(Ner, row("a", "[0,1,\"X\"]", 30_000).as_bytes(), "too_large", "30000 spans; at most 20000");
    let blank = format!("{}a", " ".repeat(400_000));
    for (code, span) in [("misaligned_span", "[0,400000,\"X\"]"), ("overlapping_spans", "[0,400001,\"X\"]")] {
        let data = row(&blank, span, 19_000);
        let (report, split) = examine(Ner, data.as_bytes());
        assert!(split.is_none(), "{code}");
        assert_eq!(finding(&report.errors, code).count, 10);
    }
}

#[test]
fn a_stored_row_is_not_larger_than_an_uploaded_one() {
    // In JSON a vertical tab, which is a space, has six bytes.
    let row = |characters: usize| format!("text,label\n{}a,x\nb,y\n", "\u{b}".repeat(characters));
    refuses(Classify, row(200_000).as_bytes(), "too_large", "bytes as a line of JSON");
    let folder = tempfile::tempdir().expect("a folder");
    let service = DatasetService::open(folder.path().join("datasets")).expect("a store");
    let stored = |split: &str, text: &str| service.put("d", Classify, split, text.as_bytes());
    assert!(stored("train", &row(174_000)).is_ok(), "just below the bound");
    assert_eq!(stored("train", &row(175_000)).map_err(|error| error.kind()), Err(ErrorKind::Unprocessable));
    assert!(stored("dev", "text,label\na,x\nc,y\n").is_ok(), "another split is compared with it");
    let (_, split, _) = service.read(&"d:train".parse().expect("a reference")).expect("a job reads it");
    assert_eq!(split.examples.len(), 2);
}

#[test]
fn streams_are_unpacked_within_bounds() {
    let kind = |bytes: &[u8]| read(Ner, bytes, &[], MAX_LENGTH).map(drop).map_err(|error| error.kind());
    // 260 members of a megabyte, a kilobyte each.
    assert_eq!(kind(&gzip(&zeros(1 << 20)).repeat(260)), Err(ErrorKind::PayloadTooLarge));
    let mut wide = zstd::Encoder::new(Vec::new(), 1).expect("memory");
    wide.window_log(27).expect("a window of 128 MiB");
    wide.long_distance_matching(true).expect("a mode");
    wide.write_all(&zeros(1 << 20)).expect("memory");
    let error = read(Ner, &wide.finish().expect("memory"), &[], MAX_LENGTH).expect_err("a window too wide");
    assert_eq!(error.kind(), ErrorKind::Unprocessable);
    assert!(error.message().contains("its window may be 2^23 bytes"), "{error}");
}

#[test]
fn work_that_nobody_waits_for_ends() {
    let rows = "{\"text\":\"a\",\"label\":\"x\"}\n".repeat(100_000);
    let empty_members = gzip(b"").repeat(100_000);
    let parquet = parquet(&flat("message m { REQUIRED BYTE_ARRAY text (UTF8); }"), &[vec!["a"; 5000]]);
    let cancelled = Cancel::default();
    cancelled.cancel();
    for bytes in [rows.as_bytes(), &gzip(rows.as_bytes()), &empty_members, &parquet] {
        let check = |cancel: &Cancel, kind: ErrorKind| {
            let options = &ReadOptions::default();
            let reading = Reading { family: Classify, split: "train", options, others: &[], max_length: MAX_LENGTH };
            let outcome = read_split(reading, bytes, cancel);
            assert_eq!(outcome.map(drop).map_err(|error| error.kind()), Err(kind), "{} bytes", bytes.len());
        };
        check(&cancelled, ErrorKind::Unavailable);
        check(&Cancel::at(Some(Instant::now())), ErrorKind::DeadlineExceeded);
    }
}

/// A schema, its columns' maximum definition level, and whether they are lists.
struct Shape {
    schema: &'static str,
    properties: WriterPropertiesBuilder,
    is_list: bool,
}

fn flat(schema: &'static str) -> Shape {
    Shape { schema, properties: WriterProperties::builder().set_dictionary_page_size_limit(64 << 20), is_list: false }
}

const LISTS: &str = "message m {
    REQUIRED GROUP tokens (LIST) { REPEATED GROUP list { REQUIRED BYTE_ARRAY element (UTF8); } }
    REQUIRED GROUP tags (LIST) { REPEATED GROUP list { REQUIRED BYTE_ARRAY element (UTF8); } }
}";

fn lists() -> Shape {
    Shape { is_list: true, ..flat(LISTS) }
}

/// One row group of text columns. Of lists: one row with all values.
fn parquet(shape: &Shape, columns: &[Vec<&str>]) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(shape.schema).expect("a schema"));
    let properties = Arc::new(shape.properties.clone().build());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).expect("memory");
    let mut group = writer.next_row_group().expect("a group");
    for values in columns {
        let mut shared = HashMap::new(); // equal values share their bytes
        let mut of = |value: &str| shared.entry(value.to_owned()).or_insert_with(|| ByteArray::from(value)).clone();
        let values: Vec<ByteArray> = values.iter().map(|value| of(value)).collect();
        let (mut definitions, mut repetitions) = (None, None);
        if shape.is_list {
            definitions = Some(vec![1; values.len()]);
            repetitions = Some((0..values.len()).map(|at| i16::from(at > 0)).collect::<Vec<i16>>());
        }
        let mut column = group.next_column().expect("a column").expect("one more");
        let column_writer = column.typed::<ByteArrayType>();
        column_writer.write_batch(&values, definitions.as_deref(), repetitions.as_deref()).expect("memory");
        column.close().expect("memory");
    }
    group.close().expect("memory");
    writer.close().expect("memory");
    bytes
}

const TEXT_AND_LABEL: &str = "message m { REQUIRED BYTE_ARRAY text (UTF8); REQUIRED BYTE_ARRAY label (UTF8); }";

#[test]
fn a_dictionary_is_counted_before_it_is_written_out() {
    let labels = |rows: usize| (0..rows).map(|at| if at % 2 == 0 { "a" } else { "b" }).collect::<Vec<_>>();
    let bomb = |text: &str, rows: usize| parquet(&flat(TEXT_AND_LABEL), &[vec![text; rows], labels(rows)]);
    let over = "bytes of text once dictionaries are written out; at most 268435456";
    refuses(Classify, &bomb(&"x".repeat(1_000_000), 400), "too_large", over);
    refuses(Classify, &bomb(&"x".repeat(10_000), 40_000), "too_large", over);
    refuses(Classify, &bomb(&"x".repeat(2_000_000), 2), "too_large", "over 1048576 bytes in a row");
    let words = "word ".repeat(20);
    let (report, split) = examine(Classify, &bomb(&words, 1000));
    assert_eq!(split.map(|split| split.examples.len()), Some(1000), "{:?}", report.errors);
}

#[test]
fn lists_in_parquet_are_measured_before_they_are_read() {
    let list = |word: &str, count: usize| parquet(&lists(), &[vec![word; count], vec!["B-X"; count]]);
    let split = examine(Ner, &list("word", 3)).1.expect("a sound list");
    assert_eq!(show(&split), "word/B-X word/B-X word/B-X");
    refuses(Ner, &list("a", 20_001), "too_large", "a list of over 20000 values");
    refuses(Ner, &list("a", 300_000), "too_large", "a list of over 20000 values");
    refuses(Ner, &list(&"a".repeat(100_000), 1000), "too_large", "over 1048576 bytes in a row");
}

#[test]
fn groups_within_groups_are_counted_before_anything_recurses() {
    let nested = |depth: usize| {
        let schema = format!(
            "message m {{ {} REQUIRED BYTE_ARRAY text; {} }}",
            "REQUIRED GROUP a {".repeat(depth),
            "}".repeat(depth)
        );
        parquet(&Shape { schema: schema.leak(), ..flat(TEXT_AND_LABEL) }, &[vec!["a"]])
    };
    refuses(Classify, &nested(900), "too_large", "901 groups within groups of the Parquet schema; at most 32");
    refuses(Classify, &nested(20), "unreadable_row", "\"text\" (or sentence");
}

#[test]
fn every_way_to_write_a_column_gives_the_same_rows() {
    let builder = || WriterProperties::builder().set_dictionary_enabled(false);
    let rows = [vec!["hello", "pay"], vec!["greet", "bill"]];
    for properties in [
        WriterProperties::builder(),
        WriterProperties::builder().set_writer_version(WriterVersion::PARQUET_2_0),
        builder(),
        builder().set_encoding(Encoding::DELTA_LENGTH_BYTE_ARRAY),
        builder().set_compression(Compression::SNAPPY),
        builder().set_compression(Compression::GZIP(GzipLevel::default())),
        builder()
            .set_compression(Compression::ZSTD(Default::default()))
            .set_writer_version(WriterVersion::PARQUET_2_0)
            .set_encoding(Encoding::PLAIN),
        builder()
            .set_compression(Compression::GZIP(GzipLevel::default()))
            .set_writer_version(WriterVersion::PARQUET_2_0)
            .set_encoding(Encoding::PLAIN),
    ] {
        let file = parquet(&Shape { properties, ..flat(TEXT_AND_LABEL) }, &rows);
        let (report, split) = examine(Classify, &file);
        let split = split.unwrap_or_else(|| panic!("{:?}", report.errors));
        assert_eq!(show(&split), "hello → greet\npay → bill");
    }
    let prefixes = builder().set_encoding(Encoding::DELTA_BYTE_ARRAY);
    let file = parquet(&Shape { properties: prefixes, ..flat(TEXT_AND_LABEL) }, &rows);
    refuses(Classify, &file, "unreadable_row", "values are encoded as DELTA_BYTE_ARRAY");
}

#[test]
fn columns_that_no_family_reads_are_left_alone() {
    let shape = flat(
        "message m { REQUIRED BYTE_ARRAY text (UTF8); REQUIRED BYTE_ARRAY label (UTF8); REQUIRED BYTE_ARRAY html (UTF8); }",
    );
    let page = "<p>".repeat(1 << 20);
    let file = parquet(&shape, &[vec!["a", "b"], vec!["x", "y"], vec![&page; 2]]);
    assert_eq!(show(&examine(Classify, &file).1.expect("no errors")), "a → x\nb → y");
}

/// Parquet files of every kind of page and packing, small enough to change each of their bytes.
fn small_files() -> Vec<(DatasetFamily, Vec<u8>)> {
    let text = |properties: WriterPropertiesBuilder| {
        let rows = [vec!["hello", "pay", "pay"], vec!["greet", "bill", "bill"]];
        (Classify, parquet(&Shape { properties, ..flat(TEXT_AND_LABEL) }, &rows))
    };
    let words = |properties: WriterPropertiesBuilder| {
        let row = [vec!["Anna", "meets", "Anna"], vec!["B-PER", "O", "B-PER"]];
        (Ner, parquet(&Shape { properties, ..lists() }, &row))
    };
    let plain = || WriterProperties::builder().set_dictionary_enabled(false);
    let second = || WriterProperties::builder().set_writer_version(WriterVersion::PARQUET_2_0);
    vec![
        text(WriterProperties::builder().set_compression(Compression::GZIP(GzipLevel::default()))),
        text(plain().set_encoding(Encoding::DELTA_LENGTH_BYTE_ARRAY)),
        words(WriterProperties::builder()),
        words(second().set_compression(Compression::SNAPPY)),
        words(plain().set_compression(Compression::ZSTD(Default::default()))),
    ]
}

#[test]
fn a_changed_byte_of_a_parquet_file_is_answered_whatever_it_claims() {
    for (family, whole) in small_files() {
        assert!(examine(family, &whole).1.is_some(), "the file is sound");
        for at in 0..whole.len() {
            for value in [0x00, 0xff, whole[at] ^ 0x80] {
                let mut changed = whole.clone();
                changed[at] = value;
                answered(family, &changed);
            }
        }
    }
}

/// An answer of bounded length; and what is accepted is the same when it is read again.
fn answered(family: DatasetFamily, bytes: &[u8]) {
    let (report, split): (DoctorReport, Option<Split>) = match read(family, bytes, &[], MAX_LENGTH) {
        Ok(read) => read,
        Err(error) => return assert!(length(&error) < REPORT_BYTES_MAX, "{error}"),
    };
    assert_eq!(split.is_none(), !report.errors.is_empty());
    assert!(report.problems().iter().map(String::len).sum::<usize>() < REPORT_BYTES_MAX, "{:?}", report.problems());
    if let Some(split) = split {
        assert_eq!(Split::from_jsonl(family, &split.to_jsonl()).expect("accepted before"), split);
    }
}

fn length(error: &Error) -> usize {
    error.to_string().len()
}

/// Pieces of every format, broken and sound, short and long.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "{\"text\":\"a b\",\"label\":\"x\"}\n",
            "{\"text\":\"",
            "\",\"labels\":[",
            "\"x\",",
            "]}\n",
            "{\"tokens\":[\"a\"],\"tags\":[\"B-X\"]}\n",
            "{\"text\":\"Meet Anna\",\"spans\":[{\"start\":5,\"end\":9,\"label\":\"PER\"}]}\n",
            "[",
            "{",
            "}",
            "]",
            "\"",
            ",",
            "\n",
            "\n\n",
            "a B-X\n",
            "b O\n",
            "text,label\n",
            "text\tlabel\n",
            "a,x\n",
            "\"a\nb\",y\n",
            "-DOCSTART- O\n",
            "\\ud800",
            "\u{feff}",
            "\u{0}",
            "{\"data\":{\"text\":\"a\"},\"annotations\":[{\"result\":[{\"value\":{\"choices\":[\"x\"]}}]}]},",
            "{\"a\":\"x\",\"b\":\"y\",\"score\":1e300}\n",
            "\"answer\":\"accept\"",
        ])
        .prop_map(str::to_owned),
        ("[a-z\u{1}\"😀 ]", 1..3000usize).prop_map(|(text, times)| text.repeat(times)),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn data_of_any_kind_gets_a_short_answer_and_reads_the_same_again(text in pieces(), family in prop::sample::select(vec![Ner, Classify, Pairs])) {
        answered(family, text.as_bytes());
        answered(family, &gzip(text.as_bytes()));
    }

    #[test]
    fn a_parquet_file_with_changed_bytes_is_answered(at in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), file in 0..5usize) {
        let (family, mut bytes) = small_files().swap_remove(file);
        for (index, value) in at {
            let place = index.index(bytes.len());
            bytes[place] = value;
        }
        answered(family, &bytes);
    }
}
