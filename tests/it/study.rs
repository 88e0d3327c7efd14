//! A whole study by the command line, on a tiny encoder and made-up data: it goes on after a kill, and repeats.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tempfile::TempDir;

const STUDY: &str = r#"
name = "tiny"
seeds = [1]
shares = ["8-shot", "100%"]

[caps]
train_rows = 40
validation_rows = 8
test_rows = 12

[fine_tune]
epochs = 2
rank = 2
layers = "last:1"
pooling = "mean"

[pre_finetune]
steps = 4
batch_size = 4
layers = "last:1"
rank = 2
measure_every = 2

[pool]
ner = ["pooled-things"]
classify = ["pooled-classes"]

[[arm]]
name = "none"
strategy = "none"

[[arm]]
name = "method"
strategy = "task_primary"

[[arm]]
name = "none-wide"
strategy = "none"
fine_tune = { rank = 4 }

[[downstream]]
family = "ner"
set = "things"

[[downstream]]
family = "classify"
set = "classes"

[[zero_shot]]
family = "ner"
set = "things"
split = "dev"

[[zero_shot]]
family = "classify"
set = "classes"
split = "test"
"#;

/// Three arms on both sets at two shares.
const CELLS: usize = 12;

const WORDS: [&str; 6] = ["model", "stack", "token", "paper", "question", "mask"];

fn class(row: usize) -> Value {
    json!({"text": format!("this {} {row}", WORDS[row % 3]), "label": format!("class_{}", row % 3)})
}

fn tagged(row: usize) -> Value {
    let words = ["which", WORDS[row % 6], &row.to_string()];
    json!({"tokens": words, "tags": ["O", format!("B-t{}", row % 2), "O"]})
}

struct Place {
    folder: TempDir,
}

impl Place {
    fn new(study: &str) -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a folder") };
        fs::write(place.path("study.toml"), study).expect("a study");
        for (split, rows) in [("train", 0..60), ("dev", 60..80), ("test", 80..100)] {
            place.write("classify", "classes", split, rows.map(class));
        }
        // no test split: dev is the test, and a tenth of train validates
        for (split, rows) in [("train", 0..90), ("dev", 90..110)] {
            place.write("ner", "things", split, rows.map(tagged));
        }
        // ten rows of each are texts of the sets above
        place.write("classify", "pooled-classes", "train", (90..140).map(class));
        place.write("ner", "pooled-things", "train", (100..150).map(tagged));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, family: &str, set: &str, split: &str, rows: impl Iterator<Item = Value>) {
        let folder = self.path("data").join(family).join(set);
        fs::create_dir_all(&folder).expect("a folder");
        let mut file = GzEncoder::new(Vec::new(), Compression::fast());
        rows.for_each(|row| writeln!(file, "{row}").expect("a row"));
        fs::write(folder.join(format!("{split}.jsonl.gz")), file.finish().expect("a file")).expect("a split");
    }

    fn study(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
        command.args(["study", "run"]).arg(self.path("study.toml")).arg("--data").arg(self.path("data"));
        command.arg("--out").arg(self.path("out")).args(["--threads", "2"]).args(arguments);
        command.arg("--backbone").arg(Path::new("tests/fixtures/architectures/bert"));
        command.output().expect("the command runs")
    }

    fn rows(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("out/rows.jsonl")).expect("rows");
        text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
    }
}

fn check(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What a cell found, without how long it took.
fn results(rows: &[Value]) -> BTreeSet<String> {
    let without_time = |row: &Value| {
        let mut row = row.clone();
        row.as_object_mut().expect("an object").remove("seconds");
        row.to_string()
    };
    rows.iter().map(without_time).collect()
}

#[test]
fn a_study_is_run_gone_on_with_and_reported() {
    let place = Place::new(STUDY);
    check(&place.study(&[]));
    let whole = place.rows();
    assert_eq!(whole.len(), CELLS);
    let row = |id: &str| whole.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("no row {id}")).clone();
    let few = row("none/classify/classes/8-shot/1");
    assert_eq!((&few["train_rows"], &few["validation_rows"], &few["test_rows"]), (&json!(24), &json!(20), &json!(12)));
    let method = row("method/classify/classes/8-shot/1");
    assert!(method["primary"].is_string() && few["primary"].is_null() && method["backbone"] != few["backbone"]);
    let all = row("none/ner/things/100%/1");
    assert_eq!((&all["train_rows"], &all["test_rows"], &all["labels"]), (&json!(40), &json!(12), &json!(5)));
    assert_eq!(few["outcomes"]["right"].as_str().map(str::len), Some(12));

    // killed after three rows, in the middle of the fourth
    let text = fs::read_to_string(place.path("out/rows.jsonl")).expect("rows");
    let cut = text.match_indices('\n').nth(2).expect("three lines").0 + 50;
    fs::write(place.path("out/rows.jsonl"), &text[..cut]).expect("torn rows");
    check(&place.study(&["--max-seconds", "0"]));
    assert_eq!(place.rows().len(), 3, "nothing begins after the time is up");
    check(&place.study(&[]));
    assert_eq!(place.rows()[..3], whole[..3], "what is finished is not run again");
    assert_eq!(results(&place.rows()), results(&whole));

    let report = fs::read_to_string(place.path("out/report/report.md")).expect("a report");
    assert!(report.contains(&format!("{CELLS} of {CELLS} cells are finished")), "{report}");
    for expected in [
        "| classify/pooled-classes | 50 | 10 | 40 | classes 10 |",
        "| ner/pooled-things | 50 | 10 | 40 | things 10 |",
        "| method − none | ner | 8-shot |",
        "| set | names | rows | method |",
        "| set | names | rows | none | method | none-wide |",
        "| average of 1 sets |",
    ] {
        assert!(report.contains(expected), "{expected}\n{report}");
    }
    assert!(place.path("out/report/conflict-method.svg").is_file());
    let told = fs::read_to_string(place.path("out/report/zero_shot.jsonl")).expect("rows of names alone");
    assert_eq!(told.lines().count(), 4, "{told}");
    assert!(place.path("out/report/curve-ner.svg").is_file() && place.path("out/report/rows.jsonl").is_file());
}

#[test]
fn rows_of_other_settings_are_not_mixed_in() {
    let place = Place::new(STUDY);
    check(&place.study(&[]));
    fs::write(place.path("study.toml"), STUDY.replace("epochs = 2", "epochs = 3")).expect("another study");
    let output = place.study(&[]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && message.contains("12 finished cells were run by other settings"), "{message}");
}

#[test]
fn the_studies_that_come_with_the_program_can_be_read() {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("studies/{name}.toml")).expect("a study");
        let study: trunkline::training::study::Study = toml::from_str(&text).expect("a readable study");
        study.check().expect("a study that can be run");
        study
    };
    let (main, ablation) = (read("main"), read("ablation"));
    assert_eq!((main.arms.len(), main.downstream.len()), (5, 23));
    let evaluated = |set: &str| main.downstream.iter().any(|downstream| downstream.set == set);
    for chosen_by in ablation.downstream.iter().map(|downstream| &downstream.set) {
        assert!(!evaluated(chosen_by), "{chosen_by}: what chooses the defaults does not judge them");
    }
}
