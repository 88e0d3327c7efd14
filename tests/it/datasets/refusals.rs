//! What the doctor refuses, with its lines, and what it only warns of.

use std::io::Write;

use trunkline::domain::{Cancel, ErrorKind};
use trunkline::training::dataset::{
    DatasetFamily, DoctorReport, OtherSplit, ReadOptions, Reading, Split, read, read_split,
};

use super::{Classify, MAX_LENGTH, Ner, Pairs, accepted, examine, finding};

/// The error `code` at `lines`, explained with `words`; no split comes of it.
fn refuses(family: DatasetFamily, data: &str, code: &str, lines: &[usize], words: &str) {
    let (report, split) = examine(family, data.as_bytes());
    assert!(split.is_none(), "accepted: {data}");
    let found = finding(&report.errors, code);
    assert_eq!(found.lines, lines, "{data}: {found:?}");
    assert!(found.message.contains(words), "{:?} lacks {words:?}", found.message);
    assert!(report.problems().iter().any(|problem| problem.starts_with(code)), "{:?}", report.problems());
}

fn warns(family: DatasetFamily, data: &str, code: &str, lines: &[usize], words: &str) {
    let (report, split) = examine(family, data.as_bytes());
    assert!(split.is_some(), "{data}: {:?}", report.errors);
    let found = finding(&report.warnings, code);
    assert_eq!(found.lines, lines, "{data}: {found:?}");
    assert!(found.message.contains(words), "{:?} lacks {words:?}", found.message);
}

/// Another split of a dataset that has `others`.
fn beside(others: &[OtherSplit], split: &str, data: &[u8]) -> (DoctorReport, Option<Split>) {
    let options = &ReadOptions::default();
    let reading = Reading { family: Classify, split, options, others, max_length: MAX_LENGTH };
    read_split(reading, data, &Cancel::default()).expect("bytes")
}

const GOOD: &str = r#"{"tokens":["a","b"],"tags":["O","B-X"]}"#;

#[test]
fn broken_tags_are_refused_with_their_lines() {
    let check = |row: &str, words: &str| refuses(Ner, &format!("{GOOD}\n{row}\n{GOOD}"), "tag_scheme", &[2], words);
    check(r#"{"tokens":["a","b"],"tags":["O"]}"#, "1 tags for 2 words");
    check(r#"{"tokens":["a"],"tags":["X-PER"]}"#, "word 1: tag \"X-PER\"");
    check(r#"{"tokens":["a"],"tags":["PER"]}"#, "word 1: tag \"PER\"");
    check(r#"{"tokens":["c","a"],"tags":["O","B-"]}"#, "word 2: tag \"B-\"");
    check(r#"{"tokens":["a"],"tags":[""]}"#, "word 1: tag \"\"");
    refuses(Ner, "a O\nb B-X\n\nc O\nd PER\n", "tag_scheme", &[5], "line 5: tag \"PER\"");
}

#[test]
fn unreadable_rows_are_refused_with_what_was_wanted() {
    let ner = |row: &str, words: &str| refuses(Ner, &format!("{GOOD}\n\n{row}"), "unreadable_row", &[3], words);
    ner(r#"{"tokens":["a"],"tags":[1]}"#, "\"tags[0]\" is a number; a string is wanted");
    ner(r#"{"tokens":"a","tags":["O"]}"#, "\"tokens\" is a string; a list of strings is wanted");
    ner(r#"{"tokens":["a"]}"#, "\"tags\" (or ner_tags) is missing");
    ner(r#"{"text":"a"}"#, "\"spans\" (or entities, ents, label, labels) is missing; the row has \"text\"");
    ner(r#"{"text":"a","spans":[{"start":-1,"end":1,"label":"X"}]}"#, "\"start\" is a number; a character position");
    ner(r#"{"text":"a","spans":[[0,1]]}"#, "no list of spans");
    ner(r#"{"text":"a","spans":[{"start":0,"end":1}]}"#, "span 0..1 has no label");
    ner(r#"{"text":"a","spans":[{"start":0,"end":1,"labels":["X","Y"]}]}"#, "has 2 labels");
    ner("[1]", "a list; an object is wanted");
    ner("{\"tokens\":", "not JSON at column 10");
    ner(r#"{"tokens":["\ud800"],"tags":["O"]}"#, "not JSON at column");
    let classify = |row: &str, words: &str| {
        refuses(Classify, &format!("{{\"text\":\"a\",\"label\":\"x\"}}\n{row}"), "unreadable_row", &[2], words);
    };
    classify(r#"{"text":"a"}"#, "\"label\" (or labels, intent, category, class, accept) is missing");
    classify(r#"{"label":"a"}"#, "\"text\" (or sentence, content, utterance, sentence1) is missing");
    classify(r#"{"text":["a"],"label":"x"}"#, "\"text\" is a list; a string is wanted");
    classify(r#"{"text":"a","label":["x"]}"#, "or \"labels\" for a list");
    classify(r#"{"text":"a","label":1.5}"#, "\"label\" is a number; a label");
    classify(r#"{"text":"a","label":" "}"#, "\"label\" is blank");
    classify(r#"{"text":"a","labels":["x",null]}"#, "\"labels\" is null");
    refuses(Pairs, r#"{"a":"x","b":"y","score":"high"}"#, "unreadable_row", &[1], "a finite number is wanted");
    refuses(Pairs, r#"{"a":"x"}"#, "unreadable_row", &[1], "\"b\" (or sentence2, positive) is missing");
}

#[test]
fn broken_tables_and_columns_are_refused_with_their_lines() {
    refuses(Classify, "text,label\na,x\nb,y,z\nc,z\n", "unreadable_row", &[3], "3 cells under a header of 2");
    refuses(Classify, "words,label\na,x\n", "unreadable_row", &[1], "a column called text or sentence");
    refuses(Classify, "text,score\na,x\n", "unreadable_row", &[1], "a column called label or labels");
    refuses(Classify, "text,label\n\"a\nb\",x\nc,\n", "unreadable_row", &[4], "\"label\" is blank");
    refuses(Ner, "a O\nb\nc O\n\nd B-X\n", "unreadable_row", &[2], "one column");
    refuses(Ner, "a\tO\n\tO\n", "unreadable_row", &[2], "a tag without a word");
    refuses(Ner, "[{\"tokens\":[\"a\"],\"tags\":[\"O\"]},\n {\"tokens\":[\"a\"]}]", "unreadable_row", &[2], "missing");
    refuses(Ner, "[{\"tokens\":[\"a\"],\"tags\":[\"B-X\"]}\n", "unreadable_row", &[1], "no \"]\" at the end");
    refuses(
        Classify,
        r#"[{"data":{"text":"a"},"annotations":[{"result":[]}]}]"#,
        "unreadable_row",
        &[1],
        "no choice was made",
    );
}

#[test]
fn misaligned_spans_are_refused_never_moved() {
    let check = |spans: &str, words: &str| {
        let row = format!(r#"{{"text":"Meet Anna, now","spans":[{spans}]}}"#);
        refuses(Ner, &format!("{GOOD}\n{row}"), "misaligned_span", &[2], words);
    };
    check(r#"{"start":5,"end":8,"label":"PER"}"#, "PER span 5..8 ends inside a word (\"Ann\")");
    check(r#"{"start":6,"end":9,"label":"PER"}"#, "begins inside a word (\"nna\")");
    check(r#"{"start":5,"end":5,"label":"PER"}"#, "not within the text's 14 characters");
    check(r#"{"start":9,"end":5,"label":"PER"}"#, "not within");
    check(r#"{"start":5,"end":99,"label":"PER"}"#, "not within");
    check(r#"{"start":4,"end":5,"label":"PER"}"#, "is empty");
    check(r#"{"start":5,"end":9,"label":"PER","text":"Anne"}"#, "should be \"Anne\", but \"Anna\" is there");
    let overlap = r#"{"text":"Meet Anna","entities":[[0,9,"A"],[5,9,"B"]]}"#;
    refuses(Ner, overlap, "overlapping_spans", &[1], "B span 5..9");
    warns(Ner, r#"{"text":"Meet Anna now","entities":[[4,10,"PER"]]}"#, "trimmed_span", &[1], "PER span 4..10");
}

#[test]
fn one_label_and_empty_splits_are_refused() {
    for family in [Ner, Classify, Pairs] {
        for empty in ["", " \n\n", "[]"] {
            refuses(family, empty, "empty_split", &[], "no rows");
        }
    }
    refuses(Classify, "text,label\n", "empty_split", &[], "");
    refuses(Classify, "text,label\na,x\nb,x\n", "one_label", &[], "every row has the label \"x\"");
    refuses(Classify, r#"{"text":"a","labels":[]}"#, "one_label", &[], "no row has a label");
    refuses(Ner, "a O\n\nb O\n", "one_label", &[], "no row has an entity");
    accepted(Ner, b"a B-X\n\nb O\n");
    accepted(Classify, b"{\"text\":\"a\",\"labels\":[]}\n{\"text\":\"b\",\"labels\":[\"x\"]}");
    let train = accepted(Classify, b"text,label\na,x\nb,y\n");
    let (report, split) = beside(&[OtherSplit::of("train", &train)], "dev", b"text,label\nc,x\nd,x\n");
    assert!(split.is_some(), "a dev split need not have all labels");
    assert_eq!(finding(&report.warnings, "one_label").count, 1);
}

#[test]
fn bytes_that_are_no_text_are_refused_with_their_place() {
    let damaged = b"text,label\ncaf\xc3\xa9 \xc3\xa0,x\nb\xff,y\n";
    let (report, split) = examine(Classify, damaged);
    let found = finding(&report.errors, "invalid_utf8");
    assert_eq!((split, found.lines.as_slice(), found.row), (None, [3].as_slice(), Some(2)));
    for broken in [&[0x1f, 0x8b, 8, 0, 1][..], &[0x28, 0xb5, 0x2f, 0xfd, 9, 9, 9]] {
        let error = read(Ner, broken, &[], MAX_LENGTH).expect_err("a broken stream");
        assert_eq!(error.kind(), ErrorKind::Unprocessable);
        assert!(error.message().contains("stream is broken"), "{error}");
    }
}

#[test]
fn a_decompression_bomb_is_refused() {
    let mut bomb = zstd::Encoder::new(Vec::new(), 1).expect("memory");
    let zeros = vec![b' '; 1 << 20];
    (0..257).for_each(|_| bomb.write_all(&zeros).expect("memory"));
    let bomb = bomb.finish().expect("memory");
    assert!(bomb.len() < 1 << 20, "small on the wire");
    let error = read(Ner, &bomb, &[], MAX_LENGTH).expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::PayloadTooLarge);
}

#[test]
fn rows_over_a_limit_are_refused() {
    let words = format!("{{\"text\":\"{}\",\"label\":\"x\"}}", "a ".repeat(20_001));
    refuses(Classify, &words, "too_large", &[1], "20001 words; at most 20000");
    let bytes = format!("{{\"text\":\"{}\",\"label\":\"x\"}}", "a".repeat(1 << 20));
    refuses(Classify, &bytes, "too_large", &[1], "bytes in a row");
    let label = format!("text,label\na,x\nb,{}\n", "y".repeat(300));
    refuses(Classify, &label, "too_large", &[3], "has 300 bytes; at most 256");
    let labels: String = (0..2048).map(|n| format!("row {n},label-{n}\n")).collect();
    refuses(Classify, &format!("text,label\n{labels}"), "too_large", &[2049], "2048 labels up to here; at most 2047");
    let quote = format!("text,label\na,x\n\"{}", "b,y\n".repeat(1 << 18));
    refuses(Classify, &quote, "unreadable_row", &[3], "1 cells under a header of 2");
}

#[test]
fn suspicious_rows_are_warned_of_with_their_lines() {
    let rows = |rows: &[&str]| format!("text,label\n{}\n", rows.join("\n"));
    warns(Classify, &rows(&["a,x", "b,y", "a,x"]), "duplicate_rows", &[4], "line 4: as line 2");
    warns(Classify, &rows(&["a,x", "b,y", "a,y"]), "conflicting_labels", &[4], "line 4: as line 2");
    warns(Classify, &rows(&["a,x", " ,x", "b,y"]), "empty_row", &[3], "left out");
    warns(Classify, &rows(&["a,Pay", "b,y", "c,pay", "d,Pay"]), "label_typo", &[4], "\"pay\" (1) and \"Pay\" (2)");
    warns(Classify, &rows(&["a,x", "1 2 3 4 5 6 7 8 9,y"]), "past_max_length", &[3], "50.0% have over 8 words");
    warns(
        Ner,
        "{\"tokens\":[],\"tags\":[]}\na B-X\n"
            .split('\n')
            .next()
            .map(|e| format!("{e}\n{GOOD}"))
            .expect("rows")
            .as_str(),
        "empty_row",
        &[1],
        "",
    );
    warns(Ner, r#"{"tokens":["a"," "],"tags":["B-X","O"]}"#, "blank_word", &[1], "");
    let typos: String = (0..30).map(|n| format!("w{n} B-location\n\n")).collect();
    warns(Ner, &format!("{typos}x B-locaton\n"), "label_typo", &[61], "\"locaton\" (1) and \"location\" (30)");
}

#[test]
fn rows_shared_with_other_splits_and_labels_training_lacks_are_warned_of() {
    let train = accepted(Classify, b"text,label\na,x\nb,y\n");
    let dev = accepted(Classify, b"text,label\nd,x\ne,y\n");
    let others = [OtherSplit::of("train", &train), OtherSplit::of("dev", &dev)];
    let (report, split) = beside(&others, "test", b"text,label\nc,x\na,z\ne,y\n");
    assert!(split.is_some());
    let leakage = finding(&report.warnings, "leakage");
    assert_eq!((leakage.count, leakage.lines.as_slice()), (2, [3, 4].as_slice()));
    assert!(leakage.message.contains("line 3: in \"train\" too; line 4: in \"dev\" too"), "{}", leakage.message);
    assert_eq!(finding(&report.warnings, "unseen_label").lines, [3]);
    let sets = accepted(Classify, b"{\"text\":\"a\",\"labels\":[\"x\"]}\n{\"text\":\"b\",\"labels\":[\"y\"]}");
    let (report, _) = beside(&[OtherSplit::of("train", &sets)], "dev", b"text,label\nc,x\nd,y\n");
    finding(&report.warnings, "label_kind");
}

#[test]
fn a_finding_names_ten_lines_and_counts_all() {
    let rows = "{}\n".repeat(25);
    let (report, _) = examine(Classify, rows.as_bytes());
    let found = finding(&report.errors, "unreadable_row");
    assert_eq!((found.count, found.lines.as_slice()), (25, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10].as_slice()));
    assert!(found.message.ends_with("; …"), "{}", found.message);
}

#[test]
fn the_report_is_a_table_for_a_terminal() {
    let (report, _) = examine(Classify, b"text,label\na,spam\nb,spam\nc,ham\nc,ham\nd,\n");
    let wanted = "family  classify\n\
                  format  csv\n\
                  rows    4\n\
                  words   4 (longest row 1)\n\
                  labels  2\n\
                  \x20 ham         2\n\
                  \x20 spam        2\n\
                  first rows as understood\n\
                  \x20 \"a\" → spam\n\
                  \x20 \"b\" → spam\n\
                  errors\n\
                  \x20 unreadable_row (1; line 6): rows that cannot be read: line 6: field \"label\" is blank; a label is wanted\n\
                  warnings\n\
                  \x20 duplicate_rows (1; line 5): rows that are there already: line 5: as line 4\n";
    assert_eq!(report.table(), wanted);
}
