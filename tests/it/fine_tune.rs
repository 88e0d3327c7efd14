//! Whole fine-tuning runs on a tiny encoder and made-up data: they learn, they can be stopped anywhere, and they repeat to the byte.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use candle_core::Device;
use serde_json::json;
use trunkline::adapter::AdapterBundle;
use trunkline::domain::{Auto, Digest, ErrorKind, Family, FineTuneSpec, GateMetric, Hyperparameters, LayerChoice};
use trunkline::model::Encoder;
use trunkline::text::Tokenizer;
use trunkline::training::dataset::{Example, Split};
use trunkline::training::{
    Control, FineTuneSetup, Method, Observer, Outcome, TrainedAdapter, TrainingEvent, evaluate_adapter, fine_tune,
};

const FILLERS: [&str; 8] = ["with", "from", "this", "using", "which", "each", "used", "then"];
const THINGS: [[&str; 3]; 3] =
    [["model", "dataset", "paper"], ["stack", "question", "answer"], ["token", "mask", "attention"]];

fn tiny() -> (Arc<Encoder>, Arc<Tokenizer>) {
    static TINY: OnceLock<(Arc<Encoder>, Arc<Tokenizer>)> = OnceLock::new();
    let load = || {
        let folder = Path::new("tests/fixtures/architectures/bert");
        (Arc::new(Encoder::load(folder, &Device::Cpu).unwrap()), Arc::new(Tokenizer::load(folder).unwrap()))
    };
    TINY.get_or_init(load).clone()
}

fn fingerprint() -> Digest {
    Digest::from_sha256(&[7; 32])
}

const EPOCHS: u32 = 12;

/// Of a run on 96 rows in batches of 16.
const STEPS: usize = 72;

/// How far a row's things are apart.
const APART: usize = 4;

/// `length` words with things of one class among them, at `first`, `first + APART`, …: class, things and places change from row to row.
fn words(row: usize, length: usize) -> (Vec<String>, usize, usize) {
    let (class, first) = (row % 3, row / 3 % APART.min(length));
    let mut words: Vec<String> = (0..length).map(|i| FILLERS[(row * 7 + i * 3 + i * i) % 8].to_owned()).collect();
    for at in (first..length).step_by(APART) {
        words[at] = THINGS[class][(row / 3 + at) % 3].to_owned();
    }
    (words, class, first)
}

fn classes(rows: std::ops::Range<usize>) -> Split {
    let example = |row| {
        let (words, class, _) = words(row, 3 + row % 5);
        Example::Classify { text: words.join(" "), text_pair: None, labels: vec![format!("class-{class}")] }
    };
    Split { examples: rows.map(example).collect(), multi_label: false }
}

/// Rows with none, one or both of two labels.
fn sets(rows: std::ops::Range<usize>) -> Split {
    let example = |row: usize| {
        let has = [row % 2 == 1, row / 2 % 2 == 1];
        let chosen = |i: usize| if has[i] { THINGS[i][row / 4 % 3] } else { FILLERS[(row + i) % 8] };
        let labels = (0..2).filter(|&i| has[i]).map(|i| format!("has-{i}")).collect();
        Example::Classify { text: format!("{} with {}", chosen(0), chosen(1)), text_pair: None, labels }
    };
    Split { examples: rows.map(example).collect(), multi_label: true }
}

/// Rows of `length` words with entities of two words each.
fn sentences(rows: std::ops::Range<usize>, length: usize) -> Split {
    let example = |row| {
        let (mut words, class, first) = words(row, length);
        let mut tags = vec!["O".to_owned(); length];
        for at in (first..length).step_by(APART) {
            tags[at] = format!("B-T{class}");
            if at + 1 < length {
                words[at + 1] = "title".to_owned();
                tags[at + 1] = format!("I-T{class}");
            }
        }
        Example::Ner { words, tags }
    };
    Split { examples: rows.map(example).collect(), multi_label: false }
}

/// A run of our own: 96 rows, quick to learn.
fn setup(family: Family, train: Split, validation: Split, folder: &Path) -> FineTuneSetup {
    let (encoder, tokenizer) = tiny();
    let hyperparameters = Hyperparameters {
        epochs: Auto::Set(EPOCHS),
        batch_size: Auto::Set(16),
        learning_rate: Auto::Set(if family == Family::Ner { 1e-2 } else { 5e-3 }),
        early_stopping_patience: Auto::Set(0),
        ..Hyperparameters::default()
    };
    let spec = FineTuneSpec {
        adapter: "tiny".parse().unwrap(),
        family,
        init_from: None,
        train: "made-up:train".parse().unwrap(),
        validation: Some("made-up:dev".parse().unwrap()),
        test: None,
        hyperparameters,
        gate: None,
        publish: Default::default(),
    };
    FineTuneSetup {
        encoder,
        tokenizer,
        fingerprint: fingerprint(),
        spec,
        train,
        validation: Some(validation),
        test: None,
        init: None,
        pools_mean: Some(false),
        checkpoint_folder: folder.join("checkpoints"),
        threads: 2,
        job_id: Some("job_1".to_owned()),
    }
}

fn intents(folder: &Path) -> FineTuneSetup {
    setup(Family::Classify, classes(0..96), classes(96..144), folder)
}

/// Notes every event; stops the run when `stop` says so.
#[derive(Default)]
struct Notes {
    events: Vec<TrainingEvent>,
    stop: Option<(u64, Control)>,
}

impl Notes {
    fn stopping(step: u64, control: Control) -> Self {
        Self { stop: Some((step, control)), ..Self::default() }
    }

    fn losses(&self) -> Vec<f64> {
        let loss =
            |event: &TrainingEvent| if let TrainingEvent::Step { loss, .. } = event { Some(*loss) } else { None };
        self.events.iter().filter_map(loss).collect()
    }

    fn messages(&self) -> Vec<&str> {
        let of = self.events.iter();
        of.filter_map(|event| if let TrainingEvent::Message(text) = event { Some(text.as_str()) } else { None })
            .collect()
    }

    fn steps(&self) -> u64 {
        let step =
            |event: &TrainingEvent| if let TrainingEvent::Step { step, .. } = event { Some(*step) } else { None };
        self.events.iter().filter_map(step).max().unwrap_or(0)
    }
}

impl Observer for Notes {
    fn event(&mut self, event: TrainingEvent) {
        self.events.push(event);
    }

    fn control(&mut self) -> Control {
        match self.stop {
            Some((step, control)) if self.steps() >= step && !self.losses().is_empty() => control,
            _ => Control::Continue,
        }
    }
}

fn finish(setup: FineTuneSetup, notes: &mut Notes) -> TrainedAdapter {
    match fine_tune(setup, notes).unwrap() {
        Outcome::Finished(trained) => *trained,
        Outcome::Stopped(control) => panic!("stopped by {control:?}"),
    }
}

fn score(trained: &TrainedAdapter, metric: GateMetric) -> f64 {
    trained.validation.metric(metric).unwrap()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_run_learns_to_tell_classes_apart() {
    let folder = folder();
    let mut setup = setup(Family::Classify, classes(0..288), classes(288..336), folder.path());
    setup.spec.hyperparameters.dropout = 0.0;
    let mut notes = Notes::default();
    let trained = finish(setup, &mut notes);
    let losses = notes.losses();
    assert_eq!(losses.len(), EPOCHS as usize * 288 / 16);
    assert!((losses[0] - 3f64.ln()).abs() < 0.2, "a fresh head is undecided: {}", losses[0]);
    let last = &losses[losses.len() - 18..];
    assert!(last.iter().all(|loss| *loss < 0.5), "{last:?}");
    assert!(score(&trained, GateMetric::Accuracy) >= 0.9, "{:?}", trained.validation);
}

#[test]
fn a_run_learns_to_tag() {
    let folder = folder();
    let setup = setup(Family::Ner, sentences(0..96, 6), sentences(96..144, 6), folder.path());
    let trained = finish(setup, &mut Notes::default());
    assert!(score(&trained, GateMetric::F1) >= 0.95, "{:?}", trained.validation);
}

#[test]
fn a_run_learns_any_number_of_labels_a_row() {
    let folder = folder();
    let setup = setup(Family::Classify, sets(0..96), sets(96..144), folder.path());
    let trained = finish(setup, &mut Notes::default());
    assert!(score(&trained, GateMetric::MacroF1) >= 0.95, "{:?}", trained.validation);
}

#[test]
fn rows_longer_than_max_length_are_read_to_their_end() {
    let folder = folder();
    let mut setup = setup(Family::Ner, sentences(0..96, 40), sentences(96..144, 40), folder.path());
    setup.spec.hyperparameters.max_length = 16;
    let trained = finish(setup, &mut Notes::default());
    assert!(score(&trained, GateMetric::Recall) >= 0.9, "{:?}", trained.validation);
}

#[test]
fn all_layers_and_chosen_modules_can_be_trained() {
    for (layers, modules) in [(LayerChoice::All, None), (LayerChoice::These(vec![1]), Some(vec!["query".to_owned()]))] {
        let folder = folder();
        let mut setup = intents(folder.path());
        setup.spec.hyperparameters.layers = layers;
        setup.spec.hyperparameters.target_modules = modules;
        setup.spec.hyperparameters.dropout = 0.0;
        let mut notes = Notes::default();
        finish(setup, &mut notes);
        let losses = notes.losses();
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        assert!(mean(&losses[66..]) < mean(&losses[..6]) - 0.05, "{losses:?}");
    }
}

#[test]
fn the_same_setup_gives_the_same_bytes_and_another_seed_others() {
    let run = |seed: u64| {
        let folder = folder();
        let mut setup = intents(folder.path());
        setup.job_id = Some(format!("job_{}", folder.path().display()));
        setup.spec.hyperparameters.seed = seed;
        finish(setup, &mut Notes::default()).files
    };
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first.weights, run(2).weights);
}

#[test]
fn a_run_paused_anywhere_ends_with_the_bytes_of_an_undisturbed_one() {
    let undisturbed = {
        let folder = folder();
        finish(intents(folder.path()), &mut Notes::default()).files
    };
    // in the first epoch, at an epoch's end, just after one, just before the end
    for step in [1, 4, 6, 7, 40, 71] {
        let folder = folder();
        let mut notes = Notes::stopping(step, Control::Pause);
        let outcome = fine_tune(intents(folder.path()), &mut notes).unwrap();
        assert!(matches!(outcome, Outcome::Stopped(Control::Pause)));
        assert_eq!(notes.steps(), step, "a pause is honoured at the next step");
        let mut notes = Notes::default();
        let resumed = finish(intents(folder.path()), &mut notes);
        assert_eq!(notes.messages(), [format!("goes on from the checkpoint of step {step}")]);
        assert_eq!(resumed.files, undisturbed, "paused at step {step}");
    }
}

#[test]
fn a_run_that_was_killed_goes_on_from_its_last_checkpoint() {
    let folder = folder();
    let undisturbed = finish(intents(folder.path()), &mut Notes::default()).files;
    // what a kill leaves: the checkpoints so far, and a half-written one
    let checkpoints = folder.path().join("checkpoints");
    fs::remove_file(newest(&checkpoints)).unwrap();
    fs::write(checkpoints.join("step-0000000072.tmp"), b"half").unwrap();
    let mut notes = Notes::default();
    let resumed = finish(intents(folder.path()), &mut notes);
    assert_eq!(notes.messages(), ["goes on from the checkpoint of step 60"]);
    assert_eq!(resumed.files, undisturbed);
}

fn newest(folder: &Path) -> PathBuf {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.max().unwrap()
}

#[test]
fn a_checkpoint_of_other_data_is_not_gone_on_from() {
    let folder = folder();
    fine_tune(intents(folder.path()), &mut Notes::stopping(5, Control::Pause)).unwrap();
    let mut other = intents(folder.path());
    other.train = classes(1..97);
    let mut notes = Notes::default();
    finish(other, &mut notes);
    assert_eq!(notes.losses().len(), STEPS);
    assert!(notes.messages()[0].contains("belongs to another spec, data or backbone"), "{:?}", notes.messages());
}

#[test]
fn a_warm_start_knows_the_classes_before_the_first_step() {
    let accuracy = |warm_start: Auto<bool>| {
        let folder = folder();
        let mut setup = intents(folder.path());
        setup.pools_mean = Some(true);
        let asked = &mut setup.spec.hyperparameters;
        asked.warm_start = warm_start;
        asked.epochs = Auto::Set(1);
        // steps that move nothing: what the run ends with is what it began with
        asked.learning_rate = Auto::Set(1e-12);
        let mut notes = Notes::default();
        let trained = finish(setup, &mut notes);
        let said = notes.messages().iter().filter(|message| message.starts_with("warm start")).count();
        (trained.validation.classification.unwrap().accuracy, said)
    };
    let (cold, said) = accuracy(Auto::Set(false));
    assert_eq!(said, 0);
    assert!(cold < 0.6, "chance is a third: {cold}");
    for choice in [Auto::Auto, Auto::Set(true)] {
        let (warm, said) = accuracy(choice);
        assert_eq!(said, 2, "contrast and centres");
        assert!(warm > 0.8 && warm > cold, "{warm}, cold {cold}");
    }
}

#[test]
fn a_cancelled_run_ends_at_the_next_step() {
    let folder = folder();
    let mut notes = Notes::stopping(3, Control::Cancel);
    let outcome = fine_tune(intents(folder.path()), &mut notes).unwrap();
    assert!(matches!(outcome, Outcome::Stopped(Control::Cancel)));
    assert_eq!(notes.steps(), 3);
    assert!(!folder.path().join("checkpoints").exists());
}

#[test]
fn training_stops_when_validation_does_says_so_and_keeps_the_best_of_the_latest() {
    let folder = folder();
    let mut setup = intents(folder.path());
    setup.spec.hyperparameters.epochs = Auto::Set(60);
    setup.spec.hyperparameters.early_stopping_patience = Auto::Set(10);
    let mut notes = Notes::default();
    let trained = finish(setup, &mut notes);
    let (ended, steps, kept) = notes
        .events
        .iter()
        .find_map(|event| match *event {
            TrainingEvent::StoppedEarly { step, steps, kept } => Some((step, steps, kept)),
            _ => None,
        })
        .expect("it learns this long before 60 epochs");
    assert_eq!((ended, steps), (notes.steps(), 60 * 6));
    let accuracy = |event: &TrainingEvent| match event {
        TrainingEvent::Validation { step, validated, best, .. } => Some((*step, validated.metrics[0].1, *best)),
        _ => None,
    };
    let validations: Vec<_> = notes.events.iter().filter_map(accuracy).collect();
    let best = validations.iter().map(|validation| validation.1).fold(0.0, f64::max);
    let latest = validations.iter().filter(|validation| validation.1 == best).map(|validation| validation.0).max();
    assert_eq!(latest, Some(kept), "{validations:?}");
    assert_eq!(score(&trained, GateMetric::Accuracy), best, "{validations:?}");
}

#[test]
fn without_a_validation_split_few_rows_are_cross_validated_and_all_of_them_trained_on() {
    let alone = |folder: &Path| {
        let mut setup = intents(folder);
        setup.validation = None;
        setup.spec.validation = None;
        setup
    };
    let folder = folder();
    let mut notes = Notes::default();
    let trained = finish(alone(folder.path()), &mut notes);
    assert_eq!((trained.validation.rows, trained.validation.method), (96, Method::CrossValidation));
    let (encoder, _) = tiny();
    let card = AdapterBundle::read(&trained.files, &encoder, &fingerprint()).unwrap().card.training.unwrap();
    assert_eq!((&card["data"]["rows"], &card["validation"]["rows"]), (&json!(96), &json!(96)));
    assert_eq!(card["validation"]["method"], "cross_validation");
    // folds of 72 rows make 5 steps an epoch, the whole makes 6
    let steps = u64::from(EPOCHS) * (4 * 5 + 6);
    let shown: Vec<_> = notes.events.iter().filter_map(step_of).collect();
    assert_eq!(shown, (1..=steps).map(|step| (step, steps)).collect::<Vec<_>>(), "one run to whoever watches");

    let other = self::folder();
    let pauses = [3, 70, 250];
    for step in pauses {
        let outcome = fine_tune(alone(other.path()), &mut Notes::stopping(step, Control::Pause)).unwrap();
        assert!(matches!(outcome, Outcome::Stopped(Control::Pause)), "at step {step}");
    }
    assert_eq!(finish(alone(other.path()), &mut Notes::default()).files, trained.files, "paused at {pauses:?}");
}

fn step_of(event: &TrainingEvent) -> Option<(u64, u64)> {
    if let TrainingEvent::Step { step, steps, .. } = event { Some((*step, *steps)) } else { None }
}

#[test]
fn of_many_rows_a_tenth_of_each_label_is_held_out() {
    let folder = folder();
    let mut setup = intents(folder.path());
    setup.train = classes(0..600);
    setup.validation = None;
    setup.spec.validation = None;
    setup.spec.hyperparameters.epochs = Auto::Set(1);
    let trained = finish(setup, &mut Notes::default());
    assert_eq!((trained.validation.rows, trained.validation.method), (60, Method::Split));
    let supports = trained.validation.classification.unwrap().per_label.into_values().map(|scores| scores.support);
    assert_eq!(supports.collect::<Vec<_>>(), [20; 3]);
}

#[test]
fn figures_say_how_far_they_may_be_off_and_few_rows_are_a_warning() {
    let folder = folder();
    let mut setup = intents(folder.path());
    setup.validation = Some(classes(96..104));
    let mut notes = Notes::default();
    let trained = finish(setup, &mut notes);
    let [low, high] = trained.validation.interval.unwrap();
    let accuracy = score(&trained, GateMetric::Accuracy);
    assert!(low < accuracy && accuracy <= high && high - low > 0.2, "{low} {accuracy} {high}");
    assert!(trained.warnings[0].starts_with("validation has 8 rows"), "{:?}", trained.warnings);
    let warned = |event: &TrainingEvent| matches!(event, TrainingEvent::Warning(text) if *text == trained.warnings[0]);
    assert!(notes.events.iter().any(warned));
    let judged = |event: &TrainingEvent| matches!(event, TrainingEvent::Validation { .. });
    assert!(!notes.events.iter().any(judged), "so few rows choose nothing");
}

#[test]
fn scores_are_calibrated_on_rows_that_were_not_trained_on_and_stored_so() {
    let folder = folder();
    let mut setup = setup(Family::Classify, noisy(0..240), noisy(240..480), folder.path());
    setup.test = Some(noisy(480..720));
    setup.spec.test = Some("made-up:test".parse().unwrap());
    let trained = finish(setup, &mut Notes::default());
    let figure = |name: &str| trained.calibration[name].as_f64().unwrap();
    assert!((figure("temperature") - 1.0).abs() > 1e-3, "{:?}", trained.calibration);
    assert!((0.0..0.5).contains(&figure("ece_before")) && (0.0..0.5).contains(&figure("ece_after")));
    // what anybody reads from the files has the scores that the run reported: those of the errors show them
    let (encoder, tokenizer) = tiny();
    let bundle = AdapterBundle::read(&trained.files, &encoder, &fingerprint()).unwrap();
    let test = evaluate_adapter(&encoder, &tokenizer, &bundle, &noisy(480..720), "made-up:test", 1).unwrap();
    assert!(!test.worst_errors.is_empty());
    assert_eq!(Some(test), trained.test);
}

/// Rows of which every third has the label of another class.
fn noisy(rows: std::ops::Range<usize>) -> Split {
    let mut split = classes(rows.clone());
    for (row, example) in rows.zip(&mut split.examples) {
        if let Example::Classify { labels, .. } = example
            && row * 7 % 20 < 7
        {
            *labels = vec![format!("class-{}", (row + 1 + row / 3 % 2) % 3)];
        }
    }
    split
}

#[test]
fn the_files_evaluate_as_the_run_said_and_tell_how_they_came_to_be() {
    let folder = folder();
    let mut setup = intents(folder.path());
    setup.test = Some(classes(144..200));
    setup.spec.test = Some("made-up:test".parse().unwrap());
    let trained = finish(setup, &mut Notes::default());
    let (encoder, tokenizer) = tiny();
    let bundle = AdapterBundle::read(&trained.files, &encoder, &fingerprint()).unwrap();
    let again = evaluate_adapter(&encoder, &tokenizer, &bundle, &classes(144..200), "made-up:test", 1).unwrap();
    assert_eq!(Some(again), trained.test);
    let training = bundle.card.training.unwrap();
    assert_eq!(training["data"]["train"], "made-up:train");
    assert_eq!(training["data"]["rows"], 96);
    assert_eq!(training["hyperparameters"]["learning_rate"], 5e-3);
    assert_eq!(training["metrics"]["validation"]["accuracy"], score(&trained, GateMetric::Accuracy));
    assert_eq!(bundle.card.labels, ["class-0", "class-1", "class-2"]);
}

#[test]
fn a_run_that_starts_from_an_adapter_begins_where_that_one_ended() {
    let folder = folder();
    let mut first = intents(folder.path());
    first.spec.hyperparameters.dropout = 0.0;
    let trained = finish(first, &mut Notes::default());
    let (encoder, _) = tiny();
    let mut setup = intents(&folder.path().join("second"));
    setup.init = Some(AdapterBundle::read(&trained.files, &encoder, &fingerprint()).unwrap());
    setup.spec.hyperparameters.epochs = Auto::Set(1);
    setup.spec.hyperparameters.dropout = 0.0;
    let mut notes = Notes::default();
    finish(setup, &mut notes);
    assert!(notes.losses()[0] < 0.6, "{:?}", notes.losses());
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_names_the_step() {
    let folder = folder();
    let mut setup = intents(folder.path());
    setup.spec.hyperparameters.learning_rate = Auto::Set(1e30);
    let error = fine_tune(setup, &mut Notes::default()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.message().contains("at step "), "{error}");
}

#[test]
fn data_that_cannot_train_is_refused_with_the_reason() {
    let check = |change: &dyn Fn(&mut FineTuneSetup), expected: &str| {
        let folder = folder();
        let mut setup = intents(folder.path());
        change(&mut setup);
        let error = fine_tune(setup, &mut Notes::default()).err().unwrap();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Unprocessable, expected));
    };
    let one_class = || Split { examples: classes(0..96).examples.into_iter().step_by(3).collect(), multi_label: false };
    check(&|setup| setup.train = one_class(), "the training data has 1 labels; at least two are wanted");
    check(&|setup| setup.train = sentences(0..3, 4), "row 1 is no classify example");
    let none = "0 rows to train on and 48 to validate on; at least one of each is wanted";
    check(&|setup| setup.train = Split::default(), none);
    let none = "96 rows to train on and 0 to validate on; at least one of each is wanted";
    check(&|setup| setup.validation = Some(Split::default()), none);
    let few = "3 rows; at least 4 are wanted to cross-validate";
    check(&|setup| (setup.train, setup.validation) = (classes(0..3), None), few);
    let layer = "layers names layer 9; the backbone has 0 to 2";
    check(&|setup| setup.spec.hyperparameters.layers = LayerChoice::These(vec![9]), layer);
}
