//! One cell: fine-tune an arm's backbone on the drawn rows, predict the test rows, and write down how each came out.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest as _, Sha256};

use crate::adapter::{AdapterBundle, AdapterFiles};
use crate::domain::{DataRef, Digest, Error, Family, FineTuneSpec, Publish, Result};
use crate::model::Encoder;
use crate::text::Tokenizer;
use crate::training::dataset::Example;
use crate::training::evaluate::{Evaluation, NerRow, spans};
use crate::training::fine_tune::{
    Control, FineTuneSetup, Observer, Outcome, TrainedAdapter, TrainingEvent, fine_tune, predict_all,
};
use crate::training::predict::Predicted;
use crate::training::study::cells::Cell;
use crate::training::study::data::Parted;
use crate::training::study::draw::{Drawn, draw};
use crate::training::study::row::{Outcomes, Row};
use crate::training::study::settings::FineTuneSettings;
use crate::training::study::spec::Study;
use crate::training::workers::{Halt, Workers};

/// A cell is one thread's work; others run beside it.
const THREADS: usize = 1;

/// What an arm brings to its cells.
pub struct ArmModel {
    pub encoder: Arc<Encoder>,
    pub tokenizer: Arc<Tokenizer>,
    pub fingerprint: Digest,
    /// What pre-finetuning left for each family.
    pub ner: Option<PrimaryAdapter>,
    pub classify: Option<PrimaryAdapter>,
}

/// An adapter that compares with names, and the digest of its files.
pub struct PrimaryAdapter {
    pub bundle: AdapterBundle,
    pub digest: Digest,
}

impl PrimaryAdapter {
    /// From its files, checked against the backbone it was made for.
    pub fn read(files: &AdapterFiles, encoder: &Encoder, fingerprint: &Digest) -> Result<Self> {
        Ok(Self { bundle: AdapterBundle::read(files, encoder, fingerprint)?, digest: files.digest() })
    }
}

impl ArmModel {
    pub fn primary(&self, family: Family) -> Option<&PrimaryAdapter> {
        match family {
            Family::Ner => self.ner.as_ref(),
            Family::Classify => self.classify.as_ref(),
        }
    }
}

/// Everything that cells share.
pub struct Bench<'a> {
    pub study: &'a Study,
    /// By place in the study's `downstream`.
    pub sets: &'a [Parted],
    /// By place in the study's `arm`.
    pub arms: &'a [ArmModel],
    /// For files of cells under way.
    pub scratch: &'a Path,
    /// The program's.
    pub version: &'a str,
}

impl Bench<'_> {
    /// Blocking; a few seconds to a minute.
    pub fn run(&self, cell: Cell) -> Result<Row> {
        let began_at = Instant::now();
        let id = cell.id(self.study);
        let context = |error: Error| error.context(&id);
        let folder = self.scratch.join(id.replace('/', "-"));
        let drawn = draw(&self.sets[cell.downstream], cell.share, cell.seed, &self.study.caps);
        let rows = (drawn.train.examples.len(), drawn.validation.examples.len());
        let mut watch = Watch::default();
        let trained = self.fine_tune(cell, drawn, &folder, &mut watch).map_err(context);
        // a folder that stays costs a little disk
        drop(std::fs::remove_dir_all(&folder));
        let trained = trained?;
        let model = &self.arms[cell.arm];
        let adapter = AdapterBundle::read(&trained.files, &model.encoder, &model.fingerprint).map_err(context)?;
        let test = self.predict(cell, &adapter).map_err(context)?;
        Ok(self.row(cell, &Finished { rows, watch, trained, adapter, test, seconds: began_at.elapsed().as_secs_f64() }))
    }

    fn fine_tune(&self, cell: Cell, drawn: Drawn, folder: &Path, watch: &mut Watch) -> Result<TrainedAdapter> {
        let (model, family) = (&self.arms[cell.arm], self.study.downstream[cell.downstream].family);
        let setup = FineTuneSetup {
            encoder: model.encoder.clone(),
            tokenizer: model.tokenizer.clone(),
            fingerprint: model.fingerprint.clone(),
            spec: self.spec(cell)?,
            train: drawn.train,
            validation: Some(drawn.validation),
            test: None,
            init: self.start(cell).map(|primary| primary.bundle.clone()),
            pools_mean: self.settings(cell).pools_mean().filter(|_| family == Family::Classify),
            checkpoint_folder: folder.to_owned(),
            threads: THREADS,
            job_id: None,
        };
        match fine_tune(setup, watch)? {
            Outcome::Finished(trained) => Ok(*trained),
            Outcome::Stopped(_) => Err(Error::internal("a cell that nobody stops was stopped")),
        }
    }

    fn spec(&self, cell: Cell) -> Result<FineTuneSpec> {
        let set = &self.study.downstream[cell.downstream];
        let data = |split: &str| DataRef { dataset: set.set.clone(), split: split.to_owned() };
        Ok(FineTuneSpec {
            adapter: "cell".parse()?,
            family: set.family,
            init_from: None,
            train: data("train"),
            validation: Some(data("validation")),
            test: None,
            hyperparameters: self.settings(cell).hyperparameters(cell.seed)?,
            gate: None,
            publish: Publish::Never,
        })
    }

    fn settings(&self, cell: Cell) -> FineTuneSettings {
        self.study.fine_tune(&self.study.arms[cell.arm])
    }

    /// What pre-finetuning left for the family: the method's own arm goes on with its LoRA, the others find LoRA that changes
    /// nothing yet; each finds its head that knows names.
    fn start(&self, cell: Cell) -> Option<&PrimaryAdapter> {
        self.arms[cell.arm].primary(self.study.downstream[cell.downstream].family)
    }

    fn predict(&self, cell: Cell, adapter: &AdapterBundle) -> Result<Test> {
        let (model, test) = (&self.arms[cell.arm], &self.sets[cell.downstream].test);
        Ok(Test::of(predict(model, adapter, test, THREADS)?))
    }

    /// Digest of everything that decides the cell.
    pub fn inputs(&self, cell: Cell) -> Result<Digest> {
        let (model, set) = (&self.arms[cell.arm], &self.sets[cell.downstream]);
        let mut hasher = Sha256::new();
        let settings = self.settings(cell);
        let numbers = settings.hyperparameters(cell.seed)?;
        hasher.update(format!("{} {numbers:?} {:?}\n", cell.id(self.study), self.study.caps));
        let primary = self.start(cell).map(|primary| &primary.digest);
        hasher.update(format!("{} {} {primary:?} {:?}\n", set.digest, model.fingerprint, settings.pools_mean()));
        Ok(Digest::from_sha256(&hasher.finalize().into()))
    }

    fn row(&self, cell: Cell, finished: &Finished) -> Row {
        let Finished { rows, watch, trained, adapter, test, seconds } = finished;
        let (arm, set) = (&self.study.arms[cell.arm], &self.study.downstream[cell.downstream]);
        Row {
            id: cell.id(self.study),
            arm: arm.name.clone(),
            strategy: arm.strategy.as_str().to_owned(),
            family: set.family.to_string(),
            set: set.set.clone(),
            share: cell.share,
            seed: cell.seed,
            train_rows: rows.0,
            validation_rows: rows.1,
            test_rows: test.outcomes.rows(),
            labels: adapter.labels.len(),
            parameters: adapter.parameters,
            steps: watch.steps,
            best_step: watch.best_step,
            seconds: (seconds * 100.0).round() / 100.0,
            score: test.outcomes.score(0..test.outcomes.rows()),
            macro_f1: test.macro_f1,
            validation_score: headline(&trained.validation),
            outcomes: test.outcomes.clone(),
            inputs: self.inputs(cell).map(|digest| digest.to_string()).unwrap_or_default(),
            backbone: self.arms[cell.arm].fingerprint.to_string(),
            primary: self.start(cell).map(|primary| primary.digest.to_string()),
            version: self.version.to_owned(),
        }
    }
}

struct Finished {
    /// Trained on, and validated on.
    rows: (usize, usize),
    watch: Watch,
    trained: TrainedAdapter,
    adapter: AdapterBundle,
    test: Test,
    seconds: f64,
}

/// Answers of `adapter` to `examples`, in order.
pub(super) fn predict(
    model: &ArmModel,
    adapter: &AdapterBundle,
    examples: &[Example],
    threads: usize,
) -> Result<Predicted> {
    let workers = Workers(threads);
    predict_all(&model.encoder, &model.tokenizer, adapter, examples, workers).map_err(never_stopped)
}

/// What nobody stops ends or fails.
pub(super) fn never_stopped(halt: Halt) -> Error {
    match halt {
        Halt::Failed(error) => error,
        Halt::Stopped(_) => Error::internal("a study's cell that nobody stops was stopped"),
    }
}

/// How the test rows came out.
struct Test {
    outcomes: Outcomes,
    macro_f1: f64,
}

impl Test {
    fn of(predicted: Predicted) -> Self {
        match predicted {
            Predicted::Ner(rows) => {
                let macro_f1 = Evaluation::ner("test", &rows).ner.map_or(0.0, |report| report.macro_average.f1);
                Self { outcomes: Outcomes::Spans(rows.iter().map(counts).collect()), macro_f1 }
            }
            Predicted::Classify(rows) => {
                let report = Evaluation::classification("test", &rows, false).classification;
                let right = rows.iter().map(|row| if row.gold == row.predicted { '1' } else { '0' });
                Self {
                    outcomes: Outcomes::Right(right.collect()),
                    macro_f1: report.map_or(0.0, |r| r.macro_average.f1),
                }
            }
        }
    }
}

/// Entities found, made up and missed in a row.
pub(super) fn counts(row: &NerRow) -> [u32; 3] {
    let (gold, predicted): (HashSet<_>, HashSet<_>) =
        (spans(&row.gold).into_iter().collect(), spans(&row.predicted).into_iter().collect());
    let found = gold.intersection(&predicted).count();
    [found, predicted.len() - found, gold.len() - found].map(|count| count as u32)
}

fn headline(evaluation: &Evaluation) -> f64 {
    let ner = evaluation.ner.as_ref().map(|report| report.micro.f1);
    ner.or_else(|| evaluation.classification.as_ref().map(|report| report.accuracy)).unwrap_or_default()
}

/// Remembers how far training went.
#[derive(Default)]
struct Watch {
    steps: u64,
    best_step: u64,
}

impl Observer for Watch {
    fn event(&mut self, event: TrainingEvent) {
        match event {
            TrainingEvent::Step { step, .. } => self.steps = step,
            TrainingEvent::Validation { step, best: true, .. } => self.best_step = step,
            _ => {}
        }
    }

    fn control(&mut self) -> Control {
        Control::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(gold: &str, predicted: &str) -> NerRow {
        let tags = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        NerRow { words: tags(gold), gold: tags(gold), predicted: tags(predicted), scores: Vec::new() }
    }

    #[test]
    fn entities_are_counted_as_the_evaluation_counts_them() {
        let rows = vec![
            row("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC"),
            row("B-PER I-PER O O", "B-PER O O B-LOC"),
            row("O B-LOC O O", "O B-ORG B-ORG O"),
            row("O O", "O O"),
        ];
        assert_eq!(rows.iter().map(counts).collect::<Vec<_>>(), [[2, 0, 0], [0, 2, 1], [0, 2, 1], [0, 0, 0]]);
        let report = Evaluation::ner("test", &rows).ner.expect("a report on entities");
        let test = Test::of(Predicted::Ner(rows));
        assert!((test.outcomes.score(0..4) - report.micro.f1).abs() < 1e-12);
        assert!((test.macro_f1 - report.macro_average.f1).abs() < 1e-12);
    }
}
