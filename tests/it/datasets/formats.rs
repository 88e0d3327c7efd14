//! Each format of the contract, recognised by content and read to the same examples.

use std::io::Write;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use trunkline::training::dataset::{DatasetFamily, Example, Split};

use super::{Classify, Ner, Pairs, accepted, examine, show};

const ANNA: &str = "Meet/O Anna/B-PER Nowak/I-PER in/O Kraków/B-LOC ,/O now/O";

#[test]
fn every_ner_format_gives_the_same_tagged_words() {
    let check = |format: &str, text: &str| {
        let (report, split) = examine(Ner, text.as_bytes());
        assert_eq!(report.errors, [], "{text}");
        assert_eq!(show(&split.expect("no errors")), ANNA, "{text}");
        assert_eq!(report.format, format);
        assert_eq!((report.rows, report.tokens, report.longest_row_tokens), (1, 7, 7));
        assert_eq!(report.labels, [("LOC".to_owned(), 1), ("PER".to_owned(), 1)].into());
    };
    let words = r#"["Meet","Anna","Nowak","in","Kraków",",","now"]"#;
    check("json-lines", &format!(r#"{{"tokens":{words},"tags":["O","B-PER","I-PER","O","B-LOC","O","O"]}}"#));
    check("json-lines", &format!(r#"{{"tokens":{words},"tags":["O","I-PER","I-PER","O","I-LOC","O","O"]}}"#));
    check("json-lines", &format!(r#"{{"id":7,"words":{words},"ner_tags":["O","B-PER","E-PER","O","S-LOC","O","O"]}}"#));
    check("json-lines", &format!(r#"{{"tokens":{words},"tags":["O","B-PER","L-PER","O","U-LOC","O","O"]}}"#));
    let text = r#""text":"Meet Anna Nowak in Kraków, now""#;
    let spans = r#"[{"start":5,"end":15,"label":"PER"},{"start":19,"end":25,"label":"LOC"}]"#;
    check("json-lines", &format!(r#"{{{text},"spans":{spans}}}"#));
    check("json-lines", &format!(r#"{{{text},"entities":[[5,15,"PER"],[19,25,"LOC"]]}}"#));
    check("json-lines", &format!(r#"{{{text},"label":[[5,15,"PER"],[19,25,"LOC"]]}}"#));
    check("json-array", &format!(" [\n{{{text},\n\"entities\":[[5,15,\"PER\"],[19,25,\"LOC\"]]}}\n]\n"));
    check("conll", "Meet O\nAnna B-PER\nNowak I-PER\nin O\nKraków B-LOC\n, O\nnow O\n");
    check(
        "conll",
        "\u{feff}-DOCSTART- -X- O O\r\n\r\n# id 1 domain=en\r\nMeet\tVB\tO\r\nAnna\tNNP\tI-PER\r\nNowak\tNNP\tI-PER\r\nin\tIN\tO\r\nKraków\tNNP\tI-LOC\r\n,\t,\tO\r\nnow\tRB\tO\r\n\r\n\r\n",
    );
    check("label-studio", LABEL_STUDIO_NER);
}

const LABEL_STUDIO_NER: &str = r#"[{"id": 1, "data": {"text": "Meet Anna Nowak in Kraków, now", "meta": {"page": 3}},
  "annotations": [
    {"was_cancelled": true, "result": []},
    {"was_cancelled": false, "result": [
      {"from_name": "label", "to_name": "text", "type": "labels",
       "value": {"start": 5, "end": 15, "text": "Anna Nowak", "labels": ["PER"]}},
      {"from_name": "label", "to_name": "text", "type": "labels",
       "value": {"start": 19, "end": 25, "text": "Kraków", "labels": ["LOC"]}},
      {"type": "relation", "from_id": "a", "to_id": "b"}]}]}]"#;

#[test]
fn prodigys_rows_are_read_by_its_own_tokens_and_its_answers_kept() {
    let row = |answer: &str| {
        format!(
            r#"{{"text":"take 10mg now","_input_hash":-5,"tokens":[{{"text":"take","start":0,"end":4,"id":0}},{{"text":"10","start":5,"end":7,"id":1}},{{"text":"mg","start":7,"end":9,"id":2}},{{"text":"now","start":10,"end":13,"id":3}}],"spans":[{{"start":7,"end":9,"token_start":2,"token_end":2,"label":"UNIT"}}],"answer":"{answer}"}}"#
        )
    };
    let text = format!("{}\n{}\n{}\n", row("reject"), row("accept"), row("ignore"));
    let (report, split) = examine(Ner, text.as_bytes());
    assert_eq!(show(&split.expect("no errors")), "take/O 10/O mg/B-UNIT now/O");
    let skipped = super::finding(&report.warnings, "skipped_row");
    assert_eq!((skipped.count, skipped.lines.as_slice()), (2, [1, 3].as_slice()));
}

#[test]
fn offsets_are_characters_unless_the_row_shows_they_are_utf16() {
    let check = |spans: &str| {
        let row = format!(r#"{{"text":"😀 Anna, 東京 é","spans":{spans}}}"#);
        assert_eq!(
            show(&accepted(Ner, row.as_bytes())),
            "😀/O Anna/B-PER ,/O 東/B-LOC 京/I-LOC e\u{301}/O".replace("e\u{301}", "é"),
            "{spans}"
        );
    };
    check(r#"[{"start":2,"end":6,"label":"PER"},{"start":8,"end":10,"label":"LOC"}]"#);
    check(r#"[{"start":2,"end":6,"label":"PER","text":"Anna"},{"start":8,"end":10,"label":"LOC"}]"#);
    check(r#"[{"start":3,"end":7,"label":"PER","text":"Anna"},{"start":9,"end":11,"label":"LOC","text":"東京"}]"#);
}

#[test]
fn tags_of_every_scheme_become_iob2() {
    let check = |tags: &str, wanted: &str| {
        let lines: String = tags.split(' ').map(|tag| format!("w {tag}\n")).collect();
        let split = accepted(Ner, format!("x B-X\n\n{lines}").as_bytes());
        let Example::Ner { tags: stored, .. } = &split.examples[1] else { panic!("not NER") };
        assert_eq!(stored.join(" "), wanted, "{tags}");
    };
    check("O I-A I-A O I-B", "O B-A I-A O B-B");
    check("I-A B-A I-A", "B-A B-A I-A");
    check("I-A I-B", "B-A B-B");
    check("B-A I-A B-A O", "B-A I-A B-A O");
    check("B-A I-A E-A S-A S-B", "B-A I-A I-A B-A B-B");
    check("B-A M-A L-A U-A", "B-A I-A I-A B-A");
    check("B-A-1 I-A-1", "B-A-1 I-A-1");
    check("O O", "O O");
}

#[test]
fn mixed_schemes_are_read_with_a_warning() {
    let warned = |text: &str| {
        let (report, _) = examine(Ner, text.as_bytes());
        report.warnings.iter().find(|w| w.code == "mixed_tag_scheme").map(|w| (w.count, w.lines.clone()))
    };
    assert_eq!(warned("a B-X\nb O\n\nc O\nd I-X\n"), Some((1, vec![4])));
    assert_eq!(warned("a I-X\nb B-X\n\nc O\nd I-X\n"), None, "IOB1");
    assert_eq!(warned("a B-X\nb I-X\n\nc O\nd B-X\n"), None, "IOB2");
}

#[test]
fn every_classification_format_gives_the_same_rows() {
    let check = |format: &str, text: &str| {
        let (report, split) = examine(Classify, text.as_bytes());
        assert_eq!(report.errors, [], "{text}");
        assert_eq!(show(&split.expect("no errors")), "pay, \"now\" → bill\nhello → greet", "{text}");
        assert_eq!((report.format.as_str(), report.multi_label), (format, false), "{text}");
    };
    check(
        "json-lines",
        "{\"text\":\"pay, \\\"now\\\"\",\"label\":\"bill\",\"source\":{\"page\":1}}\n\n{\"text\":\"hello\",\"label\":\"greet\"}",
    );
    check(
        "json-array",
        "[{\"text\":\"pay, \\\"now\\\"\",\"label\":\"bill\"},\n {\"sentence\":\"hello\",\"category\":\"greet\"}]",
    );
    check("csv", "text,label\n\"pay, \"\"now\"\"\",bill\nhello,greet\n");
    check("csv", "\u{feff}id;Intent;Utterance\r\n1;bill;\"pay, \"\"now\"\"\"\r\n2;greet;hello\r\n");
    check("tsv", "class\tcontent\nbill\t\"pay, \"\"now\"\"\"\ngreet\thello\n");
    check(
        "label-studio",
        r#"[{"data":{"question":"pay, \"now\""},"annotations":[{"result":[{"type":"choices","value":{"choices":["bill"]}}]}]},
            {"data":{"text":"hello","id":"x"},"annotations":[{"result":[{"type":"choices","value":{"choices":["greet"]}}]}]}]"#,
    );
}

#[test]
fn lists_of_labels_make_a_split_multi_label() {
    let check = |text: &str, wanted: &str| {
        let split = accepted(Classify, text.as_bytes());
        assert!(split.multi_label, "{text}");
        assert_eq!(show(&split), wanted, "{text}");
    };
    check("{\"text\":\"a\",\"labels\":[\"x\",\"y\",\"x\"]}\n{\"text\":\"b\",\"labels\":[]}", "a → x|y\nb → ");
    check("{\"text\":\"a\",\"labels\":[\"x\"]}\n{\"text\":\"b\",\"label\":\"y\"}", "a → x\nb → y");
    check("text,labels\na,\"[\"\"x\"\",\"\"y\"\"]\"\nb,y\n", "a → x|y\nb → y");
    check(
        "{\"text\":\"a\",\"options\":[],\"accept\":[\"x\"],\"answer\":\"accept\"}\n{\"text\":\"b\",\"accept\":[\"y\"]}",
        "a → x\nb → y",
    );
}

#[test]
fn whole_numbers_are_labels_by_their_digits_and_second_texts_are_kept() {
    let split = accepted(Classify, b"{\"text\":\"a\",\"label\":0}\n{\"text\":\"b\",\"text_pair\":\"c\",\"label\":1}\n");
    assert_eq!(show(&split), "a → 0\nb + c → 1");
    assert_eq!(show(&accepted(Classify, b"text,text_pair,label\na,,0\nb,c,1\n")), "a → 0\nb + c → 1");
}

#[test]
fn pairs_have_labels_or_scores_or_neither() {
    let text = r#"{"a":"x","b":"y"}
        {"a":"x","b":"z","label":"entailment","score":1.5}
        {"a":"u","b":"v","label":3.25}
        {"a":"u","b":"w","label":1}"#;
    assert_eq!(show(&accepted(Pairs, text.as_bytes())), "x ~ y →  \nx ~ z → entailment 1.5\nu ~ v →  3.25\nu ~ w → 1 ");
    assert_eq!(show(&accepted(Pairs, b"sentence1,sentence2,score\nx,y,0.5\n")), "x ~ y →  0.5");
}

#[test]
fn compressed_data_is_unpacked() {
    let text = b"text,label\na,x\nb,y\n";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text).expect("memory");
    let gzip = gzip.finish().expect("memory");
    assert_eq!(show(&accepted(Classify, &gzip)), "a → x\nb → y");
    assert_eq!(show(&accepted(Classify, &zstd::encode_all(&text[..], 1).expect("memory"))), "a → x\nb → y");
}

#[test]
fn parquet_columns_are_read_and_class_numbers_named_by_hugging_faces_schema() {
    let schema = r#"{"info":{"features":{"label":{"names":["greet","bill"],"_type":"ClassLabel"}}}}"#;
    let check = |metadata: Option<&str>, wanted: &str| {
        let (report, split) = examine(Classify, &parquet_file(&[("hello", 0), ("pay", 1)], metadata));
        assert_eq!(show(&split.unwrap_or_else(|| panic!("{:?}", report.errors))), wanted);
        assert_eq!(report.format, "parquet");
    };
    check(None, "hello → 0\npay → 1");
    check(Some(schema), "hello → greet\npay → bill");
}

fn parquet_file(rows: &[(&str, i64)], hugging_face: Option<&str>) -> Vec<u8> {
    let schema = "message schema { REQUIRED BYTE_ARRAY Text (UTF8); OPTIONAL INT64 label; }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let metadata = hugging_face.map(|value| vec![KeyValue::new("huggingface".to_owned(), value.to_owned())]);
    let properties = Arc::new(WriterProperties::builder().set_key_value_metadata(metadata).build());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).expect("memory");
    let mut group = writer.next_row_group().expect("a group");
    let texts: Vec<ByteArray> = rows.iter().map(|(text, _)| ByteArray::from(*text)).collect();
    let mut column = group.next_column().expect("a column").expect("text");
    column.typed::<ByteArrayType>().write_batch(&texts, None, None).expect("memory");
    column.close().expect("memory");
    let labels: Vec<i64> = rows.iter().map(|(_, label)| *label).collect();
    let mut column = group.next_column().expect("a column").expect("label");
    column.typed::<Int64Type>().write_batch(&labels, Some(&vec![1; rows.len()]), None).expect("memory");
    column.close().expect("memory");
    group.close().expect("memory");
    writer.close().expect("memory");
    bytes
}

#[test]
fn damaged_parquet_is_an_error_at_every_byte() {
    let whole = parquet_file(&[("hello", 0), ("pay", 1)], None);
    for at in 0..whole.len() {
        let (cut, mut flipped) = (&whole[..at], whole.clone());
        flipped[at] ^= 0xff;
        for bytes in [cut, &flipped] {
            // Some bytes do not matter; what counts is an answer. Short of the magic number it is no Parquet at all.
            let (report, split) = examine(Classify, bytes);
            assert_eq!(split.is_none(), !report.errors.is_empty(), "byte {at}");
        }
    }
}

fn words() -> impl Strategy<Value = String> {
    "[a-zé東😀\"\\\\\u{0}]{1,4}( [a-z,.]{1,3}){0,2}"
}

fn example(family: DatasetFamily) -> BoxedStrategy<Example> {
    let tags = prop::sample::select(vec!["O", "B-A", "B-B"]).prop_map(str::to_owned);
    match family {
        Ner => prop::collection::vec((words(), tags), 1..6)
            .prop_map(|pairs| pairs.into_iter().unzip())
            .prop_map(|(words, tags)| Example::Ner { words, tags })
            .boxed(),
        Classify => (words(), prop::option::of(words()), "[a-c]{1,2}")
            .prop_map(|(text, text_pair, label)| Example::Classify { text, text_pair, labels: vec![label] })
            .boxed(),
        Pairs => (words(), words(), prop::option::of("[a-c]{1,2}"), prop::option::of(-1e6f32..1e6))
            .prop_map(|(a, b, label, score)| Example::Pair { a, b, label, score })
            .boxed(),
    }
}

fn split() -> impl Strategy<Value = (DatasetFamily, Split)> {
    let family = prop::sample::select(vec![Ner, Classify, Pairs]);
    family.prop_flat_map(|family| {
        let examples = prop::collection::vec(example(family), 1..8);
        (examples, any::<bool>())
            .prop_map(move |(examples, many)| (family, Split { examples, multi_label: many && family == Classify }))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn canonical_lines_read_back_as_the_same_split((family, split) in split()) {
        let lines = split.to_jsonl();
        let again = Split::from_jsonl(family, &lines).expect("our own lines");
        prop_assert_eq!(&again, &split);
        prop_assert_eq!(again.to_jsonl(), lines);
    }

    #[test]
    fn bytes_of_any_kind_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200), family in prop::sample::select(vec![Ner, Classify, Pairs])) {
        let (report, split) = examine(family, &bytes);
        prop_assert_eq!(split.is_none(), !report.errors.is_empty());
    }
}
