//! Where a file leaves a choice: what is chosen, what is said of it, and what the caller's word changes.

use trunkline::domain::Cancel;
use trunkline::training::dataset::{
    AskedOptions, DatasetFamily, DoctorReport, ReadOptions, Reading, Split, read_split,
};

use super::{Classify, MAX_LENGTH, Ner, Pairs, finding, show};

/// Reads `data` with options as callers write them: `multi_label=false on_error=skip`.
#[track_caller]
fn read(family: DatasetFamily, options: &str, data: &[u8]) -> (DoctorReport, Option<Split>) {
    let mut asked = AskedOptions::default();
    for (name, value) in options.split_whitespace().filter_map(|option| option.split_once('=')) {
        let slot = match name {
            "text_column" => &mut asked.text_column,
            "label_column" => &mut asked.label_column,
            "columns" => &mut asked.columns,
            "labels" => &mut asked.labels,
            "multi_label" => &mut asked.multi_label,
            "rename" => &mut asked.rename,
            "on_error" => &mut asked.on_error,
            other => panic!("no option {other}"),
        };
        *slot = Some(value.to_owned());
    }
    let options = &ReadOptions::parse(&asked, family).expect("sound options");
    let reading = Reading { family, split: "dev", options, others: &[], max_length: MAX_LENGTH };
    read_split(reading, data, &Cancel::default()).expect("bytes")
}

/// `data` is read as `wanted`; the warnings are those of `codes`, if any of them is about a reading.
#[track_caller]
fn reads(family: DatasetFamily, options: &str, data: &str, wanted: &str, codes: &[&str]) {
    let (report, split) = read(family, options, data.as_bytes());
    let split = split.unwrap_or_else(|| panic!("{data}: {:#?}", report.errors));
    assert_eq!(show(&split), wanted, "{data}");
    let got: Vec<&str> = report.warnings.iter().map(|warning| warning.code.as_str()).collect();
    let got: Vec<&str> = got.into_iter().filter(|code| !["past_max_length", "label_typo"].contains(code)).collect();
    assert_eq!(got, codes, "{data}: {:#?}", report.warnings);
}

#[track_caller]
fn refuses(family: DatasetFamily, options: &str, data: &[u8], code: &str, words: &str) {
    let (report, split) = read(family, options, data);
    assert!(split.is_none(), "accepted: {}", String::from_utf8_lossy(data));
    let found = finding(&report.errors, code);
    assert!(found.message.contains(words), "{:?} lacks {words:?}", found.message);
}

const ANNA: &str = "Anna/B-PER in/O Bonn/B-LOC\nno/O one/O";

#[test]
fn column_files_are_read_by_the_columns_they_have() {
    let check = |options: &str, text: &str, codes: &[&str]| reads(Ner, options, text, ANNA, codes);
    check("", "Anna B-PER\nin O\nBonn B-LOC\n\nno O\none O\n", &[]);
    check("", "Anna\tB-PER\t\nin\tO\t\nBonn\tB-LOC\t\n\nno\tO\t\none\tO\t\n", &[]);
    check("", "1\tAnna\tB-PER\n2\tin\tO\n3\tBonn\tB-LOC\n\n1\tno\tO\n2\tone\tO\n", &[]);
    check("", "0 Anna B-PER\n1 in O\n2 Bonn B-LOC\n\n0 no O\n1 one O\n", &[]);
    check("", "B-PER Anna\nO in\nB-LOC Bonn\n\nO no\nO one\n", &["column_choice"]);
    check("", "Anna,B-PER\nin,O\nBonn,B-LOC\n\nno,O\none,O\n", &[]);
    check("", "Anna;B-PER\nin;O\nBonn;B-LOC\n\nno;O\none;O\n", &[]);
    check("", "word,tag\nAnna,B-PER\nin,O\nBonn,B-LOC\n\nno,O\none,O\n", &[]);
    check("", "Sentence #,Word,POS,Tag\nS1,Anna,N,B-PER\n,in,P,O\n,Bonn,N,B-LOC\nS2,no,D,O\n,one,P,O\n", &[]);
    check("", "Anna N B-NP B-PER\nin P B-PP O\nBonn N B-NP B-LOC\n\nno D B-NP O\none P I-NP O\n", &[]);
    check("", "Anna B-PER O\nin O O\nBonn B-LOC B-X\n\nno O O\none O O\n", &["column_choice"]);
    check("columns=word:2,tag:1", "B-PER Anna\nO in\nB-LOC Bonn\n\nO no\nO one\n", &[]);
    check("columns=word:1,tag:2", "Anna B-PER O\nin O O\nBonn B-LOC B-X\n\nno O O\none O O\n", &[]);
    let comments = "# sent_id = a\n# text = vitamin O\n";
    check("", &format!("{comments}1\tAnna\tB-PER\n2\tin\tO\n3\tBonn\tB-LOC\n\n1\tno\tO\n2\tone\tO\n"), &["comment"]);
    check("", "Anna B-PER\rin O\rBonn B-LOC\r\rno O\rone O\r", &[]);
    check("rename=Person:PER", "Anna B-Person\nin O\nBonn B-LOC\n\nno O\none O\n", &[]);
    check("rename=X:PER", "Anna B-PER\nin O\nBonn B-LOC\n\nno O\none O\n", &["unused_option"]);
    refuses(Ner, "columns=word:1,tag:4", b"a O\nb B-X\n", "unreadable_row", "a tag in column 4");
}

#[test]
fn lists_of_words_are_read_with_tags_of_any_name_or_number() {
    let words = r#""tokens":["Anna","in","Bonn"]"#;
    let check = |options: &str, row: &str| reads(Ner, options, row, "Anna/B-PER in/O Bonn/B-LOC", &[]);
    check("labels=O,B-PER,I-PER,B-LOC,I-LOC", &format!(r#"{{{words},"ner_tags":[1,0,3]}}"#));
    check("", &format!(r#"{{{words},"labels":["B-PER","O","B-LOC"]}}"#));
    check("label_column=gold", &format!(r#"{{{words},"gold":["B-PER","O","B-LOC"]}}"#));
    check("", r#"{"Tokens":["Anna","in","Bonn"],"NER_TAGS":["B-PER","O","B-LOC"]}"#);
    let table = "tokens,ner_tags\n\"['Anna', 'in', 'Bonn']\",\"['B-PER', 'O', 'B-LOC']\"\n";
    reads(Ner, "", table, "Anna/B-PER in/O Bonn/B-LOC", &["list_cell"]);
    refuses(Ner, "", format!(r#"{{{words},"ner_tags":[1,0,3]}}"#).as_bytes(), "unreadable_row", "labels=…");
    refuses(Ner, "labels=O,B-PER", format!(r#"{{{words},"ner_tags":[1,0,3]}}"#).as_bytes(), "unreadable_row", "0 to 1");
}

#[test]
fn spans_are_read_in_the_shapes_that_tools_write() {
    let check = |row: &str| reads(Ner, "", row, "Anna/B-PER in/O Bonn/B-LOC", &[]);
    check(r#"["Anna in Bonn", {"entities": [[0,4,"PER"],[8,12,"LOC"]]}]"#);
    check(r#"[["Anna in Bonn", {"entities": [[0,4,"PER"],[8,12,"LOC"]]}]]"#);
    check(r#"{"text":"Anna in Bonn","ents":[{"start":0,"end":4,"label":"PER"},{"start":8,"end":12,"label":"LOC"}]}"#);
    check(
        r#"{"id":1,"text":"Anna in Bonn","entities":[{"id":7,"label":"PER","start_offset":0,"end_offset":4},{"id":8,"label":"LOC","start_offset":8,"end_offset":12}],"relations":[],"Comments":[]}"#,
    );
    check(r#"{"id":1,"text":"Anna in Bonn","label":[[0,4,"PER"],[8,12,"LOC"]]}"#);
    check(r#"{"Text":"Anna in Bonn","Labels":[[0,4," PER"],[8,12,"LOC"]]}"#.replace(" PER", "PER").as_str());
    check(
        r#"{"sentence":"Anna in Bonn","spans":[{"start":0,"end":4,"entity_group":"PER"},{"start":8,"end":12,"entity_group":"LOC"}]}"#,
    );
    check(
        r#"{"text":"Anna in Bonn","tokens":["Anna","in","Bonn"],"spans":[{"start":0,"end":4,"label":"PER"},{"start":8,"end":12,"label":"LOC"}]}"#,
    );
    reads(
        Ner,
        "text_column=body label_column=marks",
        r#"{"body":"Anna in Bonn","marks":[[0,4,"PER"],[8,12,"LOC"]]}"#,
        "Anna/B-PER in/O Bonn/B-LOC",
        &[],
    );
    reads(Ner, "", r#"{"text":"Anna","label":[[0,4," PER "]]}"#, "Anna/B-PER", &["trimmed_label"]);
}

#[test]
fn a_span_may_end_inside_a_word_where_scripts_and_units_want_it() {
    let check = |text: &str, spans: &str, wanted: &str, codes: &[&str]| {
        reads(Ner, "", &format!(r#"{{"text":"{text}","entities":[{spans}]}}"#), wanted, codes);
    };
    check("서울에서 만나요", r#"[0,2,"LOC"]"#, "서울에서/B-LOC 만나요/O", &["widened_span"]);
    check("take 20mg now", r#"[7,9,"UNIT"]"#, "take/O 20mg/B-UNIT now/O", &["widened_span"]);
    check("take 20mg now", r#"[5,7,"DOSE"],[7,9,"UNIT"]"#, "take/O 20/B-DOSE mg/B-UNIT now/O", &["split_word"]);
    check("ไปกรุง", r#"[2,6,"LOC"]"#, "ไ/O ป/O ก/B-LOC รุ/I-LOC ง/I-LOC", &[]);
    check("وباريس", r#"[1,6,"LOC"]"#, "وباريس/B-LOC", &["widened_span"]);
    refuses(
        Ner,
        "",
        r#"{"text":"number","entities":[[1,6,"X"]]}"#.as_bytes(),
        "misaligned_span",
        "begins inside a word",
    );
    refuses(
        Ner,
        "",
        r#"{"text":"Großstadt","entities":[[0,4,"X"]]}"#.as_bytes(),
        "misaligned_span",
        "ends inside a word",
    );
}

/// A task with a text and annotations.
fn task(id: usize, text: &str, rest: &str) -> String {
    format!(r#"{{"id":{id},"data":{{"text":"{text}"}},{rest}}}"#)
}

fn region(start: usize, end: usize, text: &str, label: &str) -> String {
    format!(r#"{{"type":"labels","value":{{"start":{start},"end":{end},"text":"{text}","labels":["{label}"]}}}}"#)
}

#[test]
fn label_studios_tasks_are_read_by_their_offsets_and_one_annotation_each() {
    let check = |tasks: &[String], wanted: &str, codes: &[&str]| {
        reads(Ner, "", &format!("[{}]", tasks.join(",")), wanted, codes);
    };
    let annotation = |more: &str, results: &str| format!(r#"{{"result":[{results}]{more}}}"#);
    let annotations = |all: &[String]| format!(r#""annotations":[{}]"#, all.join(","));
    let (anna, all) = (region(0, 4, "Anna", "PER"), region(0, 7, "Anna in", "X"));
    let plain = annotation("", &anna);
    let one = task(1, "Anna in", &annotations(std::slice::from_ref(&plain)));
    check(std::slice::from_ref(&one), "Anna/B-PER in/O", &[]);
    let truth = annotation(r#","id":9,"ground_truth":true"#, &anna);
    let other = annotation(r#","id":12,"updated_at":"2025-01-01T00:00:00Z""#, &all);
    check(&[task(1, "Anna in", &annotations(&[truth, other.clone()]))], "Anna/B-PER in/O", &["further_annotations"]);
    let older = annotation(r#","id":14,"updated_at":"2024-01-01T00:00:00Z""#, &anna);
    check(&[task(1, "Anna in", &annotations(&[other, older]))], "Anna/B-X in/I-X", &["further_annotations"]);
    for unlabelled in [
        r#""annotations":[],"predictions":[{"result":[]}]"#,
        r#""predictions":[{"result":[]}]"#,
        r#""annotations":[{"was_cancelled":true,"result":[]}]"#,
    ] {
        check(&[one.clone(), task(2, "Berta", unlabelled)], "Anna/B-PER in/O", &["skipped_row"]);
    }
    let stale = task(1, "Anna in", &annotations(&[annotation("", &region(0, 4, "nn", "PER"))]));
    check(&[stale], "Anna/B-PER in/O", &["stale_text"]);
    let spaces = task(1, "Anna  B in", &annotations(&[annotation("", &region(0, 7, "Anna B", "PER"))]));
    check(&[spaces], "Anna/B-PER B/I-PER in/O", &[]);
    let relation = format!(r#"{anna},{{"type":"relation","from_id":"a","to_id":"b"}}"#);
    check(&[task(1, "Anna in", &annotations(&[annotation("", &relation)]))], "Anna/B-PER in/O", &["unread_result"]);
    let html = r#"{"type":"hypertextlabels","value":{"start":"/p[1]","end":"/p[1]","startOffset":0,"endOffset":4,"globalOffsets":{"start":0,"end":4},"text":"Anna","hypertextlabels":["PER"]}}"#;
    let html = annotations(&[annotation("", html)]);
    check(&[one.clone(), task(2, "<p>Anna</p>", &html)], "Anna/B-PER in/O", &["unread_region"]);
    check(&[one, task(2, "Anna out", &html)], "Anna/B-PER in/O\nAnna/B-PER out/O", &[]);
}

#[test]
fn one_label_or_several_is_as_the_file_or_the_caller_says() {
    let check = |options: &str, text: &str, multi_label: bool, codes: &[&str]| {
        reads(Classify, options, text, "a → x\nb → y", codes);
        let (report, split) = read(Classify, options, text.as_bytes());
        assert_eq!(
            (report.multi_label, split.map(|split| split.multi_label)),
            (multi_label, Some(multi_label)),
            "{text}"
        );
    };
    let lists = "{\"text\":\"a\",\"labels\":[\"x\"]}\n{\"text\":\"b\",\"labels\":[\"y\"]}";
    check("", lists, true, &["single_lists"]);
    check("multi_label=true", lists, true, &[]);
    check("multi_label=false", lists, false, &[]);
    let plain = "text,label\na,x\nb,y\n";
    check("", plain, false, &[]);
    check("multi_label=true", plain, true, &[]);
    let choice = |style: &str, text: &str, label: &str| {
        format!(r#"{{"text":"{text}","accept":["{label}"],"config":{{"choice_style":"{style}"}},"answer":"accept"}}"#)
    };
    let prodigy = |style: &str| format!("{}\n{}", choice(style, "a", "x"), choice(style, "b", "y"));
    check("", &prodigy("single"), false, &[]);
    check("", &prodigy("multiple"), true, &[]);
    let two = "{\"text\":\"a\",\"labels\":[\"x\",\"y\"]}\n{\"text\":\"b\",\"labels\":[\"y\"]}";
    refuses(Classify, "multi_label=false", two.as_bytes(), "unreadable_row", "2 labels; multi_label=false wants one");
    let both = choice("single", "a", "x\",\"y");
    refuses(Classify, "", both.as_bytes(), "unreadable_row", "choice_style \"single\" wants one");
    reads(Classify, "", "text,label\na,x|y\nb,y\nc,x\n", "a → x|y\nb → y\nc → x", &["separated_labels"]);
    reads(Classify, "multi_label=true", "text,label\na,x|y\nb,y\nc,\n", "a → x|y\nb → y\nc → ", &[]);
}

#[test]
fn cells_with_lists_are_lists_however_they_were_printed() {
    let table = |cell: &str| format!("text,labels\na,\"{}\"\nb,\"[\"\"y\"\"]\"\n", cell.replace('"', "\"\""));
    let check = |cell: &str, codes: &[&str]| reads(Classify, "", &table(cell), "a → x|y\nb → y", codes);
    check(r#"["x","y"]"#, &[]);
    check("['x', 'y']", &["list_cell"]);
    check("['x' 'y']", &["list_cell"]);
    check("{'x', 'y'}", &["list_cell"]);
    check("('x', 'y')", &["list_cell"]);
    check("[x, y]", &["list_cell"]);
    refuses(
        Classify,
        "",
        table("['x', 'y").replace("y\"\n", "y]\"\n").as_bytes(),
        "unreadable_row",
        "ends as a list and is none",
    );
    let bits = "{\"text\":\"a\",\"labels\":[0,1,1]}\n{\"text\":\"b\",\"labels\":[1,0,0]}";
    reads(Classify, "labels=w,x,y", bits, "a → x|y\nb → w", &[]);
    refuses(Classify, "", bits.as_bytes(), "unreadable_row", "zeros and ones");
    let ids = "{\"text\":\"a\",\"labels\":[1,2]}\n{\"text\":\"b\",\"labels\":[0]}";
    reads(Classify, "labels=w,x,y", ids, "a → x|y\nb → w", &[]);
}

#[test]
fn labels_are_named_trimmed_and_renamed() {
    reads(Classify, "labels=x,y", "text,label\na,0\nb,1\nc,-1\n", "a → x\nb → y", &["unlabelled_row"]);
    reads(
        Classify,
        "labels=x,y rename=x:z",
        "{\"text\":\"a\",\"label\":0}\n{\"text\":\"b\",\"label\":1}",
        "a → z\nb → y",
        &[],
    );
    reads(Classify, "", "text,label\na,0\nb,1\n", "a → 0\nb → 1", &["numeric_labels"]);
    reads(Classify, "", "text,label\na,x\nb, y\nc,y \n", "a → x\nb → y\nc → y", &["trimmed_label"]);
    reads(Classify, "", "{\"Text\":\"a\",\"LABEL\":\"x\"}\n{\"Text\":\"b\",\"LABEL\":\"y\"}", "a → x\nb → y", &[]);
    let two =
        "{\"text\":\"a\",\"label\":\"x\",\"category\":\"p\"}\n{\"text\":\"b\",\"label\":\"y\",\"category\":\"q\"}";
    reads(Classify, "", two, "a → x\nb → y", &["column_choice"]);
    reads(Classify, "label_column=category", two, "a → p\nb → q", &[]);
    let cats = "[\"a\", {\"cats\": {\"x\": 1.0, \"y\": 0.0}}]\n[\"b\", {\"cats\": {\"x\": 0.0, \"y\": 1.0}}]";
    reads(Classify, "multi_label=false", cats, "a → x\nb → y", &[]);
}

#[test]
fn tables_are_read_whatever_parts_and_heads_them() {
    let check = |options: &str, text: &str, codes: &[&str]| reads(Classify, options, text, "a → x\nb → y", codes);
    check("", "text;label\na;x\nb;y\n", &[]);
    check("", "text|label\na|x\nb|y\n", &[]);
    check("", "sep=;\r\ntext;label\r\na;x\r\nb;y\r\n", &[]);
    check("", "text,label,\na,x,\nb,y,\n", &[]);
    check("", "text,label\na,x,\nb,y,,\n", &["ragged_row"]);
    check("", "text,label,note\na,x\nb,y,n\n", &["ragged_row"]);
    check("", "text,label\ra,x\rb,y\r", &[]);
    check("text_column=Review label_column=Stars", "Stars,Review\nx,a\ny,b\n", &[]);
    check("text_column=2 label_column=1", "Stars,Review\nx,a\ny,b\n", &[]);
    let by_place = "text_column=2 label_column=1";
    check(by_place, "code,Review\nx,a\ny,b\n", &["column_choice"]);
    check(by_place, "label,Satz\nx,a\ny,b\n", &["column_choice"]);
    check(by_place, "x,a\ny,b\n", &["no_header"]);
    reads(Classify, by_place, "x,one\ny,two\n", "one → x\ntwo → y", &["no_header"]);
    reads(Classify, by_place, "question,who is it\ny,two\n", "who is it → question\ntwo → y", &["no_header"]);
    reads(Classify, by_place, "x,one,id\ny,two,7\n", "one → x\ntwo → y", &["no_header"]);
    refuses(Classify, "", b"x,a\ny,b\n", "unreadable_row", "text_column names another, or its place from 1");
    refuses(Classify, "text_column=body", b"text,label\na,x\n", "unknown_column", "\"body\" is neither");
    refuses(Classify, "", b"text,label\nhello, you,x\nb,y\n", "unreadable_row", "wants quotes");
    let swallowed = "text,label\n\"a,x\nb,y\nc\",z\nd,x\n";
    reads(Classify, "", swallowed, "a,x\nb,y\nc → z\nd → x", &["quoted_cell"]);
    let spans = "id,text,label\n7,Anna in,\"[{\"\"start\"\":0,\"\"end\"\":4,\"\"labels\"\":[\"\"PER\"\"]}]\"\n";
    reads(Ner, "", spans, "Anna/B-PER in/O", &[]);
}

#[test]
fn bad_rows_are_left_out_within_a_bound_if_the_caller_wants_it() {
    let row = |label: &str| format!("{{\"text\":\"row {label}\",\"label\":\"{label}\"}}\n");
    let data = format!("{}{{\"id\":\"q7\"}}\n{}broken\n{}{}", row("x"), row("y"), row("z"), row("w"));
    let (report, split) = read(Classify, "on_error=skip", data.as_bytes());
    assert_eq!((report.rows, report.skipped, split.is_some()), (4, 2, true), "{:?}", report.errors);
    let left = finding(&report.warnings, "unreadable_row");
    assert_eq!((left.count, left.lines.as_slice(), left.task_id.as_deref()), (2, [2, 4].as_slice(), Some("q7")));
    assert_eq!((left.samples[1].line, left.samples[1].row), (Some(4), Some(4)));
    refuses(Classify, "", data.as_bytes(), "unreadable_row", "line 2, id q7");
    let bad = format!("{}{{}}\n{{}}\n", row("x"));
    refuses(Classify, "on_error=skip", bad.as_bytes(), "too_many_skipped", "2 of 3; at most 50% may be");
    refuses(Classify, "on_error=skip", b"{}\n", "too_many_skipped", "1 of 1");
    let cut = "[{\"text\":\"a\",\"label\":\"x\"},\n{\"text\":\"b\",\"label\":\"y\"},\n{\"text\":\"c";
    let (report, split) = read(Classify, "on_error=skip", cut.as_bytes());
    assert_eq!((report.rows, report.skipped, split.is_some()), (2, 1, true), "a file cut short: {:?}", report.errors);
    let damaged = b"text,label\ncaf\xc3\xa9 \xc3\xa8,x\nb\xff,y\nc,y\n";
    let (report, split) = read(Classify, "on_error=skip", damaged);
    assert_eq!(show(&split.expect("accepted")), "café è → x\nc → y");
    assert_eq!(finding(&report.warnings, "invalid_utf8").lines, [3]);
}

#[test]
fn text_in_other_encodings_is_recognised_with_a_note() {
    let text = "text,label\nprix élevé à Orléans,x\nça marche très bien,y\n";
    let wanted = "prix élevé à Orléans → x\nça marche très bien → y";
    let utf16 = |big: bool| -> Vec<u8> {
        text.encode_utf16().flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
    };
    let latin: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).expect("Latin-1")).collect();
    for (name, bytes) in [
        ("UTF-16LE", [b"\xff\xfe".to_vec(), utf16(false)].concat()),
        ("UTF-16BE", [b"\xfe\xff".to_vec(), utf16(true)].concat()),
        ("UTF-16LE", utf16(false)),
        ("UTF-16BE", utf16(true)),
        ("windows-1252", latin),
    ] {
        let (report, split) = read(Classify, "", &bytes);
        assert_eq!(show(&split.unwrap_or_else(|| panic!("{name}: {:?}", report.errors))), wanted, "{name}");
        let note = finding(&report.warnings, "encoding");
        assert!(note.message.contains(name), "{}", note.message);
        assert_eq!(note.lines, [2, 3], "the lines to look at");
    }
    let marked = format!("\u{feff}{text}");
    reads(Classify, "", &marked, wanted, &[]);
}

#[test]
fn files_of_another_kind_or_family_are_named() {
    refuses(Classify, "", b"PK\x03\x04....xl/workbook.xml", "foreign_format", "Excel workbook");
    refuses(
        Ner,
        "",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "foreign_format",
        "Git LFS pointer",
    );
    refuses(Classify, "", b"<!DOCTYPE html>\n<html></html>", "foreign_format", "HTML page");
    refuses(Classify, "", b"\x00\x01\x02\x00\x05", "foreign_format", "no text");
    let spans = r#"{"text":"Anna","entities":[[0,4,"PER"]]}"#;
    refuses(Classify, "", spans.as_bytes(), "other_family", "family=ner is probably meant");
    refuses(Classify, "", b"Anna B-PER\nin O\n", "other_family", "family=ner");
    refuses(Ner, "", b"text,label\na,x\nb,y\n", "other_family", "family=classify");
    refuses(
        Ner,
        "",
        b"{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"b\",\"label\":\"y\"}",
        "other_family",
        "family=classify",
    );
    refuses(Classify, "", b"{\"a\":\"x\",\"b\":\"y\"}\n", "other_family", "family=pairs");
    refuses(Pairs, "", b"{\"text\":\"a\",\"label\":\"x\"}\n", "other_family", "family=classify");
}

#[test]
fn the_report_shows_the_first_two_rows_as_understood() {
    let (report, _) = read(Ner, "", b"# sent_id = s1\nAnna B-PER\nin O\n\nno O\n\none O\n");
    let shown: Vec<String> = report.preview.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["Anna/B-PER in/O", "no/O"]);
    let first = &report.preview[0];
    assert_eq!((first.line, first.row, first.task_id.as_deref()), (Some(2), 1, Some("s1")));
    let (report, _) = read(Classify, "", format!("text,labels\n{},\"[\"\"x\"\"]\"\n", "long ".repeat(500)).as_bytes());
    assert_eq!(report.preview[0].labels.as_deref(), Some(["x".to_owned()].as_slice()), "also of what is refused");
    assert_eq!(report.preview[0].text.as_ref().map(|text| text.chars().count()), Some(301));
}
