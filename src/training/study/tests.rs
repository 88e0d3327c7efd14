//! STUDY.toml, the order of cells, the journal, and the report of a few rows.

use std::io::Write;

use serde_json::{Value, json};

use super::*;
use crate::domain::Family;

/// Two arms of each family, one set of each, two shares, two seeds.
fn document() -> Value {
    json!({
        "name": "tiny",
        "seeds": [1, 2],
        "shares": ["8-shot", "100%"],
        "pool": {"ner": ["types"], "classify": [{"set": "classes", "weight": 2.0}], "pairs": ["twins"]},
        "arm": [
            {"name": "none", "strategy": "none"},
            {"name": "ner", "strategy": "ner_only"},
            {"name": "method", "strategy": "task_primary", "pre_finetune": {"layers": "last:4"}},
        ],
        "downstream": [{"family": "ner", "set": "films"}, {"family": "classify", "set": "intents"}],
    })
}

fn study(document: Value) -> Study {
    serde_json::from_value(document).expect("a study")
}

fn with(pointer: &str, value: Value) -> Value {
    let mut document = document();
    *document.pointer_mut(pointer).expect("a place in the document") = value;
    document
}

#[test]
fn a_study_is_checked_as_a_whole() {
    study(document()).check().expect("it can be run");
    for (pointer, value, expected) in [
        ("/seeds", json!([]), "seeds: 0 given"),
        ("/seeds", json!([3, 3]), "seeds: 2 given, 1 of them different"),
        ("/arm/1/name", json!("none"), "arm: 3 given, 2 of them different"),
        ("/arm/1/name", json!("a b"), "adapter name \"a b\""),
        ("/arm/2/strategy", json!("none"), "pre-finetunes nothing"),
        ("/arm/2/pre_finetune", json!({}), ""),
        ("/pool/ner", json!([]), "the pool has no set of family ner"),
        ("/pool/pairs", json!(["intents"]), "intents is evaluated"),
        ("/pool/classify", json!([{"set": "x", "weight": 0.0}]), "weight 0"),
        ("/pool", json!({"rows_max": 0, "ner": ["a"], "classify": ["b"]}), "0 rows"),
        ("/downstream/1", json!({"family": "ner", "set": "films"}), "downstream: 2 given"),
    ] {
        let problems = match study(with(pointer, value)).check() {
            Ok(()) => String::new(),
            Err(error) => error.problems().join("; "),
        };
        let fits = if expected.is_empty() { problems.is_empty() } else { problems.contains(expected) };
        assert!(fits, "{pointer}: {problems:?}, wanted {expected:?}");
    }
}

#[test]
fn what_a_study_does_not_know_is_refused() {
    for (pointer, key) in
        [("", "seedz"), ("/pool", "nerr"), ("/arm/1", "layers"), ("/arm/2/pre_finetune", "k"), ("/downstream/0", "cap")]
    {
        let mut document = document();
        document
            .pointer_mut(pointer)
            .and_then(Value::as_object_mut)
            .expect("an object")
            .insert(key.to_owned(), json!(1));
        let error = serde_json::from_value::<Study>(document).expect_err("an unknown key").to_string();
        assert!(error.contains(key), "{error}");
    }
    for share in ["8-shots", "0-shot", "101%", "0%", "ten"] {
        assert!(share.parse::<Share>().is_err(), "{share}");
    }
}

#[test]
fn an_arms_own_numbers_win_over_the_studys() {
    let mut study = study(with("/arm/2/pre_finetune", json!({"rank": 4})));
    study.pre_finetune = PreFinetuneSettings { rank: Some(16), steps: Some(100), ..PreFinetuneSettings::default() };
    let settings = study.pre_finetune(&study.arms[2]);
    assert_eq!((settings.rank, settings.steps, settings.seed), (Some(4), Some(100), None));
}

#[test]
fn cells_come_so_that_a_part_of_them_compares_like_with_like() {
    let study = study(document());
    let ids: Vec<String> = cells(&study).iter().map(|cell| cell.id(&study)).collect();
    // an arm that was pre-finetuned for entities alone is not asked about classes
    let of_share = |share: &str, seed: u64| {
        ["none/ner/films", "ner/ner/films", "method/ner/films", "none/classify/intents", "method/classify/intents"]
            .map(|cell| format!("{cell}/{share}/{seed}"))
    };
    let expected = [of_share("8-shot", 1), of_share("100%", 1), of_share("8-shot", 2), of_share("100%", 2)];
    assert_eq!(ids, expected.concat());
}

fn row(study: &Study, cell: Cell, right: usize) -> Row {
    let (arm, set) = (&study.arms[cell.arm], &study.downstream[cell.downstream]);
    let outcomes = match set.family {
        Family::Ner => Outcomes::Spans((0..10).map(|at| if at < right { [1, 0, 0] } else { [0, 0, 2] }).collect()),
        Family::Classify => Outcomes::Right((0..10).map(|at| if at < right { '1' } else { '0' }).collect()),
    };
    Row {
        id: cell.id(study),
        arm: arm.name.clone(),
        strategy: arm.strategy.as_str().to_owned(),
        family: set.family.to_string(),
        set: set.set.clone(),
        share: cell.share,
        seed: cell.seed,
        train_rows: if cell.share == Share::Percent(100) { 100 } else { 16 },
        validation_rows: 5,
        test_rows: 10,
        labels: 3,
        parameters: 7,
        steps: 40,
        best_step: 20,
        seconds: if set.family == Family::Ner { 6.0 } else { 2.0 },
        score: outcomes.score(0..10),
        macro_f1: 0.5,
        validation_score: 0.5,
        outcomes,
        inputs: "sha256:00".to_owned(),
        backbone: "sha256:11".to_owned(),
        primary: None,
        version: "9.9".to_owned(),
    }
}

/// The plain arm is right on 4 and 6 rows of ten, the others on two more.
fn rows(study: &Study) -> Vec<Row> {
    let right = |cell: &Cell| 2 + 2 * cell.seed as usize + if cell.arm == 0 { 0 } else { 2 };
    cells(study).into_iter().map(|cell| row(study, cell, right(&cell))).collect()
}

#[test]
fn the_time_left_is_that_of_cells_like_those_that_are_left() {
    let study = study(document());
    let rows = rows(&study);
    let left = |done: usize| {
        let left = unfinished(&study, cells(&study), &rows[..done]);
        (left.len(), seconds_left(&study, &left, &rows[..done], 2))
    };
    assert_eq!(left(0), (20, None));
    // six of entities and four of classes are left, for two threads
    assert_eq!(left(10), (10, Some((6.0 * 6.0 + 4.0 * 2.0) / 2.0)));
    assert_eq!(left(20), (0, Some(0.0)));
}

#[test]
fn rows_survive_a_kill_between_and_inside_two_writes() {
    let study = study(document());
    let rows = rows(&study);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rows.jsonl");
    let (mut journal, found) = Journal::open(&path).expect("a new journal");
    assert_eq!(found, []);
    rows[..3].iter().for_each(|row| journal.append(row).expect("a line"));
    drop(journal);
    for torn in [0, 1, 100] {
        let bytes = line(&rows[3]).expect("a line");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("the journal");
        file.write_all(&bytes[..torn]).expect("a torn line");
        assert_eq!(read_rows(&path).expect("whole lines"), rows[..3], "{torn} bytes torn");
        assert_eq!(Journal::open(&path).expect("the journal").1, rows[..3], "{torn} bytes torn");
    }
    let (mut journal, found) = Journal::open(&path).expect("the journal");
    let left: Vec<String> = unfinished(&study, cells(&study), &found).iter().map(|cell| cell.id(&study)).collect();
    assert_eq!(left, rows[3..].iter().map(|row| row.id.clone()).collect::<Vec<_>>());
    rows[3..].iter().for_each(|row| journal.append(row).expect("a line"));
    assert_eq!(
        std::fs::read(&path).expect("the journal"),
        rows.iter().flat_map(|row| line(row).expect("a line")).collect::<Vec<u8>>()
    );
}

#[test]
fn a_line_that_is_no_row_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, "{\"id\": 1}\nmore").expect("a file");
    assert!(Journal::open(&path).err().expect("no row").to_string().contains("line 1"));
    assert_eq!(std::fs::read(&path).expect("the file"), b"{\"id\": 1}\nmore", "what we cannot read we leave alone");
}

fn means(cosine: Vec<Option<f64>>) -> MeanGradients {
    MeanGradients { cosine, ner_halves: vec![0.5; 2], classify_halves: vec![0.25; 2] }
}

fn findings() -> Findings {
    let study = study(document());
    let clearance = Clearance {
        family: "ner".to_owned(),
        set: "types".to_owned(),
        rows: 50,
        dropped: [("films".to_owned(), 4)].into(),
        kept: 46,
    };
    let points = vec![
        Point { step: 20, ner_loss: Some(0.9), classify_loss: Some(0.8), cosine: vec![0.2, -0.4] },
        Point { step: 40, ner_loss: Some(0.5), classify_loss: Some(0.25), cosine: vec![0.4, -0.2] },
    ];
    let account = ArmAccount {
        arm: "method".to_owned(),
        inputs: String::new(),
        backbone: "sha256:22".to_owned(),
        seconds: 120.0,
        points,
        conflict: Some(Conflict {
            batches: 30,
            begin: means(vec![Some(0.5), Some(0.25)]),
            end: means(vec![None, Some(-0.125)]),
        }),
    };
    let zero = ZeroShotRow {
        arm: "method".to_owned(),
        strategy: "task_primary".to_owned(),
        family: "ner".to_owned(),
        set: "films".to_owned(),
        split: "dev".to_owned(),
        rows: 9,
        names: 3,
        score: 0.25,
        precision: Some(0.5),
        recall: Some(1.0 / 6.0),
        method: "token scores".to_owned(),
        backbone: "sha256:22".to_owned(),
    };
    let rows = rows(&study);
    let conclusion = Some("It **holds**.".to_owned());
    Findings { study, rows, zero_shot: vec![zero], clearances: vec![clearance], arms: vec![account], conclusion }
}

#[test]
fn a_report_says_what_the_rows_say() {
    let Report { markdown, html, plots } = report(&findings());
    for expected in [
        "20 of 20 cells are finished: 3 arms, 1 NER and 1 classification sets, shares 8-shot, 100%, 2 seeds; 0.0 thread-hours",
        "It **holds**.",
        // accuracy: 4 and 6 of ten, against 6 and 8
        "| method − none | classify | 8-shot | +20.00 |",
        "| method − ner | ner | 100% | +0.00 | +0.00 to +0.00 | 1 | 0–0 |",
        "| none | 50.0 ± 14.1 | 50.0 ± 14.1 |",
        "| arm | 8-shot (1 sets, 2 seeds) | 100% (1 sets, 2 seeds) |",
        "| method | 70.0 ± 14.1 | 70.0 ± 14.1 |",
        // spans: 4 found and 12 missed: 8/20; 6 and 8: 12/20
        "| films | 50.0 ± 14.1 |",
        "| set | names | rows | method |",
        "| films dev | 3 | 9 | 25.0 (50.0, 16.7) |",
        "| average of 1 sets |  |  | 25.0 |",
        "| method | task_primary | {\"layers\":\"last:4\"} | 2 | 0.500 | 0.250 | 0.000 | 50 % | 0.38 | -0.12 |",
        "| arm | weights | layer 0 | layer 1 |",
        "| method | begin | 0.50 (0.50, 0.25) | 0.25 (0.50, 0.25) |",
        "| method | end | – (0.50, 0.25) | -0.12 (0.50, 0.25) |",
        "| intents | classify | 3 | 16 + 5 | 100 + 5 | 10 |",
        "| ner/types | 50 | 4 | 46 | films 4 |",
    ] {
        assert!(markdown.contains(expected), "{expected}\n{markdown}");
    }
    assert!(html.contains("<td>films 4</td>") && html.contains("It <b>holds</b>."));
    let names: Vec<&str> = plots.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "curve-ner.svg",
        "gain-ner.svg",
        "curve-classify.svg",
        "gain-classify.svg",
        "conflict-means.svg",
        "conflict-layers.svg",
        "conflict-method.svg",
    ];
    assert_eq!(names, expected);
    assert!(names.iter().all(|name| markdown.contains(&format!("({name})"))));
    assert_eq!(report(&findings()), report(&findings()));
}

#[test]
fn only_what_every_arm_has_done_is_compared() {
    let mut findings = findings();
    // the method has not done seed 2 of the whole share of classes
    findings.rows.retain(|row| row.id != "method/classify/intents/100%/2");
    let Report { markdown, .. } = report(&findings);
    assert!(markdown.contains("19 of 20 cells"));
    assert!(markdown.contains("| arm | 8-shot (1 sets, 2 seeds) | 100% (1 sets, 1 seeds) |"), "{markdown}");
    assert!(markdown.contains("| none | 50.0 ± 14.1 | 40.0 |"), "{markdown}");
}

#[test]
fn a_study_without_rows_has_a_report() {
    let findings =
        Findings { rows: Vec::new(), zero_shot: Vec::new(), clearances: Vec::new(), arms: Vec::new(), ..findings() };
    let Report { markdown, plots, .. } = report(&findings);
    assert!(markdown.contains("0 of 20 cells") && plots.is_empty(), "{markdown}");
}
