//! Tokens and entities equal the reference library's, and offsets hold for any text.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::Value;
use trunkline::domain::{
    Aggregation, LabelSet, LongText, Matrix, NerParameters, OffsetUnit, TextInput, convert_ranges,
};
use trunkline::text::{Cut, Encoding, Tokenizer, entities, fit, softmax_rows};

use crate::support::plain_backbone;

const ARCHITECTURES: [&str; 5] = ["bert", "electra", "distilbert", "roberta", "modernbert"];

static TOKENIZERS: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| {
    let load = |name: &str| Tokenizer::load(&fixture("architectures").join(name)).unwrap();
    ARCHITECTURES.into_iter().map(load).collect()
});

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn text(text: &str) -> TextInput {
    TextInput::Text(text.to_owned())
}

fn words(words: &[&str]) -> TextInput {
    TextInput::Words(words.iter().map(|&word| word.to_owned()).collect())
}

fn integers(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

/// The ids of the one window, special tokens included.
fn model_input(tokenizer: &Tokenizer, input: &TextInput, max_length: usize) -> Vec<u64> {
    let encoding = tokenizer.encode(input).unwrap();
    let fitted = fit(tokenizer, &encoding, Cut { max_length, long_text: LongText::Truncate, stride: 0 }).unwrap();
    fitted.windows[0].ids.iter().map(|&id| u64::from(id)).collect()
}

#[test]
fn every_architecture_reads_the_same_tokens_as_the_reference() {
    for (name, tokenizer) in ARCHITECTURES.iter().zip(&*TOKENIZERS) {
        let expected = json(&fixture("architectures").join(name).join("expected.json"));
        for (row, line) in expected["texts"].as_array().unwrap().iter().enumerate() {
            let mask = integers(&expected["attention_mask"][row]);
            let mut wanted = integers(&expected["input_ids"][row]);
            wanted.truncate(mask.iter().filter(|&&unmasked| unmasked == 1).count());
            let line = line.as_str().unwrap();
            assert_eq!(model_input(tokenizer, &text(line), 96), wanted, "{name}: {line}");
        }
    }
}

/// What was in `expected.json` of a PEFT fixture for one text.
struct Row {
    text: String,
    value: Value,
}

fn rows(folder: &str) -> (Value, Vec<Row>) {
    let expected = json(&fixture("peft").join(folder).join("expected.json"));
    let row = |value: &Value| Row { text: value["text"].as_str().unwrap().to_owned(), value: value.clone() };
    let rows = expected["rows"].as_array().unwrap().iter().map(row).collect();
    (expected, rows)
}

#[test]
fn the_plain_backbone_reads_the_same_tokens_and_offsets_as_the_reference() {
    let tokenizer = Tokenizer::load(plain_backbone()).unwrap();
    for folder in ["ner-r8-qv", "ner-r16-all-last2", "cls-r8-qv", "cls-r4-rslora"] {
        for row in rows(folder).1 {
            assert_eq!(
                model_input(&tokenizer, &text(&row.text), 512),
                integers(&row.value["input_ids"]),
                "{}",
                row.text
            );
            let encoding = tokenizer.encode(&text(&row.text)).unwrap();
            let got = convert_ranges(&row.text, &encoding.offsets, OffsetUnit::Char);
            let with_specials = row.value["offsets"].as_array().unwrap();
            let wanted: Vec<_> = with_specials[1..with_specials.len() - 1]
                .iter()
                .map(integers)
                .map(|range| range[0] as usize..range[1] as usize)
                .collect();
            assert_eq!(got, wanted, "{}", row.text);
        }
    }
}

fn logits(row: &Row) -> Matrix {
    let rows = row.value["logits"].as_array().unwrap();
    let numbers = |row: &Value| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect::<Vec<_>>();
    let tokens = &rows[1..rows.len() - 1];
    Matrix::new(numbers(&rows[0]).len(), tokens.iter().flat_map(numbers).collect())
}

/// Type or tag, range in characters, and index of each entity; the scores apart.
fn shown(found: &[Value]) -> (Vec<String>, Vec<f64>) {
    let show = |entity: &Value| {
        let label = entity.get("entity_group").or(entity.get("entity")).unwrap();
        let index = entity.get("index").map_or(String::new(), |index| format!(" #{index}"));
        format!("{}@{}..{}{index}", label.as_str().unwrap(), entity["start"], entity["end"])
    };
    (found.iter().map(show).collect(), found.iter().map(|entity| entity["score"].as_f64().unwrap()).collect())
}

fn ours(tokenizer: &Tokenizer, row: &Row, labels: &LabelSet, aggregation: Aggregation) -> (Vec<String>, Vec<f64>) {
    let encoding = tokenizer.encode(&text(&row.text)).unwrap();
    let parameters = NerParameters { aggregation, ..NerParameters::default() };
    let found = entities(&row.text, &encoding, &softmax_rows(logits(row)), labels, &parameters);
    let ranges: Vec<_> = found.iter().map(|entity| entity.range.clone()).collect();
    let ranges = convert_ranges(&row.text, &ranges, OffsetUnit::Char);
    let show = |(entity, range): (&trunkline::domain::Entity, std::ops::Range<usize>)| {
        let index = entity.index.map_or(String::new(), |index| format!(" #{index}"));
        format!("{}@{}..{}{index}", entity.label, range.start, range.end)
    };
    let scores = found.iter().map(|entity| f64::from(entity.score)).collect();
    (found.iter().zip(ranges).map(show).collect(), scores)
}

#[test]
fn all_five_strategies_find_what_the_pipeline_finds() {
    let strategies = [
        ("none", Aggregation::None),
        ("simple", Aggregation::Simple),
        ("first", Aggregation::First),
        ("average", Aggregation::Average),
        ("max", Aggregation::Max),
    ];
    let tokenizer = Tokenizer::load(plain_backbone()).unwrap();
    for folder in ["ner-r8-qv", "ner-r16-all-last2"] {
        let (expected, rows) = rows(folder);
        let names = expected["labels"].as_array().unwrap().iter().map(|label| label.as_str().unwrap().to_owned());
        let labels = LabelSet::new(names.collect()).unwrap();
        let pipeline = json(&fixture("peft").join(folder).join("pipeline.json"));
        for (name, aggregation) in strategies {
            for answer in pipeline[name].as_array().unwrap() {
                let row = rows.iter().find(|row| row.text == answer["text"]).unwrap();
                let (wanted, wanted_scores) = shown(answer["entities"].as_array().unwrap());
                let (got, scores) = ours(&tokenizer, row, &labels, aggregation);
                assert_eq!(got, wanted, "{folder} {name}: {}", row.text);
                let apart = scores.iter().zip(wanted_scores).map(|(got, wanted)| (got - wanted).abs());
                assert!(apart.fold(0.0, f64::max) < 1e-4, "{folder} {name}: {}", row.text);
            }
        }
    }
}

#[test]
fn a_text_of_nothing_has_no_entities() {
    let tokenizer = &TOKENIZERS[0];
    for nothing in ["", " \t\n ", "\u{200b}\u{7}"] {
        let encoding = tokenizer.encode(&text(nothing)).unwrap();
        assert!(encoding.ids.is_empty(), "{nothing:?}");
        let labels = LabelSet::new(vec!["PER".to_owned()]).unwrap();
        let scores = Matrix::new(1, Vec::new());
        assert_eq!(entities(nothing, &encoding, &scores, &labels, &NerParameters::default()), []);
    }
}

/// The text of each token.
fn slices<'a>(text: &'a str, encoding: &Encoding) -> Vec<&'a str> {
    encoding.offsets.iter().map(|range| &text[range.clone()]).collect()
}

#[test]
fn offsets_point_into_the_callers_own_text() {
    let tokenizer = Tokenizer::load(plain_backbone()).unwrap();
    let cases: [(&str, &[&str]); 6] = [
        ("Cafe\u{301} NAÏVE", &["Cafe\u{301}", "NAÏVE"]),
        ("I ❤️ Jose\u{301}.", &["I", "❤️", "Jose\u{301}", "."]),
        ("İstanbul", &["İstanbul"]),
        ("👩‍👩‍👧 Anna", &["👩‍👩‍👧", "Anna"]),
        ("  a\u{a0}b\u{200b}  ", &["a", "b"]),
        ("شكرا!", &["ش", "ك", "ر", "ا", "!"]),
    ];
    for (line, wanted) in cases {
        assert_eq!(slices(line, &tokenizer.encode(&text(line)).unwrap()), wanted, "{line}");
    }
}

#[test]
fn byte_level_tokens_leave_their_space_outside() {
    let roberta = &TOKENIZERS[3];
    let line = "in  Kraków";
    let encoding = roberta.encode(&text(line)).unwrap();
    assert!(slices(line, &encoding).iter().all(|slice| !slice.contains(' ')), "{:?}", slices(line, &encoding));
    let krakow: Vec<_> = encoding
        .words
        .iter()
        .zip(&encoding.is_subword)
        .filter(|(word, _)| **word == encoding.words[encoding.words.len() - 1])
        .collect();
    assert!(krakow.len() > 1 && !krakow[0].1 && krakow[1..].iter().all(|(_, continues)| **continues));
}

#[test]
fn a_word_is_one_word_whatever_is_unseen_in_it() {
    for word in [
        "An\u{200b}na",
        "Kowal\u{ad}ska",
        "Sie\u{200d}mens",
        "Sie\u{200c}mens",
        "Kra\u{feff}ków",
        "An\u{2060}na",
        "Jose\u{301}",
        "Krako\u{301}w",
        "Vie\u{323}\u{302}t",
        "नमस्ते",
        "क्‍षत्रिय",
        "مَرْحَبًا",
        "שָׁלוֹם",
        "ភ្នំពេញ",
        "한국어",
        "👩\u{200d}👩\u{200d}👧",
        "❤\u{fe0f}",
    ] {
        let line = format!("x {word} y");
        for (name, tokenizer) in ARCHITECTURES.iter().zip(&*TOKENIZERS) {
            let encoding = tokenizer.encode(&text(&line)).unwrap();
            let mut words: Vec<std::ops::Range<usize>> = Vec::new();
            for (range, continues) in encoding.offsets.iter().zip(&encoding.is_subword) {
                match words.last_mut() {
                    Some(word) if *continues && word.start == word.end => *word = range.clone(),
                    Some(word) if *continues => word.end = range.end,
                    _ => words.push(range.clone()),
                }
            }
            let found: Vec<&str> =
                words.iter().map(|word| &line[word.clone()]).filter(|word| !word.is_empty()).collect();
            assert_eq!(found, ["x", word, "y"], "{name}");
        }
    }
}

#[test]
fn no_entity_touches_white_space_or_another() {
    let labels = LabelSet::new(["O", "B-A", "I-A", "B-B"].map(str::to_owned).to_vec()).unwrap();
    let lines = [
        "Yesterday Bob  Stone left",
        " \u{a0} Bob\u{a0}Stone\u{2003}",
        "Bob\n\nStone\t",
        "\u{feff}Bob \u{200b} Stone\u{200e}",
        "@anna Br쳝n's 한국",
        "½ ﷺ ﬁ",
    ];
    for line in lines {
        for (name, tokenizer) in ARCHITECTURES.iter().zip(&*TOKENIZERS) {
            let encoding = tokenizer.encode(&text(line)).unwrap();
            // Every assignment of tags by a few rules of place: a token of white space is tagged like any other.
            for rule in 0..7_usize {
                let row = |at: usize| (0..4).map(move |label| if label == (at * rule + rule) % 4 { 9.0 } else { 0.0 });
                let rows: Vec<f32> = (0..encoding.ids.len()).flat_map(row).collect();
                let scores = softmax_rows(Matrix::new(4, rows));
                for aggregation in [Aggregation::Simple, Aggregation::First, Aggregation::Average, Aggregation::Max] {
                    let parameters = NerParameters { aggregation, ..NerParameters::default() };
                    let found = entities(line, &encoding, &scores, &labels, &parameters);
                    for entity in &found {
                        let word = &line[entity.range.clone()];
                        assert_eq!(word, word.trim(), "{name} {aggregation:?} {line:?}");
                        assert!(!word.is_empty(), "{name} {aggregation:?} {line:?}");
                    }
                    for pair in found.windows(2) {
                        assert!(pair[0].range.end <= pair[1].range.start, "{name} {aggregation:?} {line:?}: {pair:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn pre_split_words_keep_their_numbers_and_read_as_their_text() {
    let input = words(&["Dr.", "", "O'Neill", " ", "👩‍👧", "3pm"]);
    for (name, tokenizer) in ARCHITECTURES.iter().zip(&*TOKENIZERS) {
        let encoding = tokenizer.encode(&input).unwrap();
        let joined = input.source_text();
        assert_eq!(encoding.ids, tokenizer.encode(&text(&joined)).unwrap().ids, "{name}");
        for (word, slice) in
            encoding.words.iter().zip(slices(&joined, &encoding)).filter(|(_, slice)| !slice.is_empty())
        {
            let TextInput::Words(words) = &input else { unreachable!("made above") };
            let word = word.unwrap() as usize;
            assert!(words[word].contains(slice), "{name}: {slice:?} is not of word {word}");
        }
    }
}

#[test]
fn a_special_tokens_name_in_a_text_is_that_token() {
    let encoding = TOKENIZERS[0].encode(&text("a [SEP] b")).unwrap();
    assert_eq!(encoding.ids[1], 3);
    assert_eq!(encoding.offsets[1], 2..7);
}

#[test]
fn a_folder_without_a_tokenizer_is_refused_with_the_files_name() {
    let folder = tempfile::tempdir().unwrap();
    for json in [None, Some(""), Some("{\"model\": {\"type\": \"Abacus\"}}")] {
        if let Some(json) = json {
            fs::write(folder.path().join("tokenizer.json"), json).unwrap();
        }
        let error = Tokenizer::load(folder.path()).unwrap_err();
        assert!(error.message().contains("tokenizer.json: "), "{error}");
    }
}

#[test]
fn a_megabyte_of_one_word_is_read_in_seconds() {
    let word = text(&"ab".repeat(1 << 19));
    for (name, tokenizer) in ARCHITECTURES.iter().zip(&*TOKENIZERS) {
        let started = Instant::now();
        let encoding = tokenizer.encode(&word).unwrap();
        assert!(encoding.offsets.last().unwrap().end == 1 << 20, "{name}");
        assert!(started.elapsed() < Duration::from_secs(20), "{name} took {:?}", started.elapsed());
    }
}

/// What offsets trip over.
const PIECES: [&str; 28] = [
    " ",
    "  ",
    "\n",
    "\u{a0}",
    "Anna",
    "Kraków",
    "cafe\u{301}",
    "İ",
    "ﬁ",
    "ß",
    "東京都",
    "👩‍👩‍👧",
    "🏳️‍🌈",
    "שָׁלוֹם",
    "مرحبا",
    "한국어",
    "\u{200d}",
    "\u{feff}",
    "\0",
    "\u{fffd}",
    "[SEP]",
    "<mask>",
    "3.14",
    "don't",
    "½",
    "Å",
    "𝔸",
    "नमस्ते",
];

/// Texts of [`PIECES`] and of anything else.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![4 => proptest::sample::select(&PIECES[..]).prop_map(str::to_owned), 1 => any::<char>().prop_map(String::from)];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn offsets_hold_for_any_text(line in any_text()) {
        for (name, tokenizer) in ARCHITECTURES.iter().zip(&*TOKENIZERS) {
            let encoding = tokenizer.encode(&text(&line)).unwrap();
            let count = encoding.ids.len();
            prop_assert_eq!([encoding.offsets.len(), encoding.words.len(), encoding.is_subword.len()], [count; 3]);
            for range in &encoding.offsets {
                prop_assert!(line.get(range.clone()).is_some(), "{}: {:?} of {:?}", name, range, line);
            }
            for pair in encoding.offsets.windows(2) {
                prop_assert!(pair[0].start <= pair[1].start && pair[0].end <= pair[1].end, "{}: {:?} in {:?}", name, pair, line);
            }
            for unit in [OffsetUnit::Char, OffsetUnit::Utf16] {
                prop_assert_eq!(convert_ranges(&line, &encoding.offsets, unit).len(), count);
            }
        }
    }
}
