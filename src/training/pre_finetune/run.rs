//! A run from its data to a trained backbone and its primaries. Leaves the steps to `trainer`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tracing::info;

use crate::adapter::AdapterFiles;
use crate::domain::{Digest, Error, Family, PreFinetuneSpec, Result, TrainingPrecision};
use crate::model::kernels::give_back_memory;
use crate::model::kernels::packed::Kernel;
use crate::model::{Encoder, TrainableEncoder};
use crate::text::Tokenizer;
use crate::training::checkpoint::Checkpoints;
use crate::training::fine_tune::{Control, Observer, TrainingEvent};
use crate::training::pre_finetune::pool::{Pool, PoolSet};
use crate::training::pre_finetune::primary::Primary;
use crate::training::pre_finetune::read::Reader;
use crate::training::pre_finetune::report::{Account, Conflicts, provenance, report};
use crate::training::pre_finetune::series::Series;
use crate::training::pre_finetune::state::{State, Trained};
use crate::training::pre_finetune::trainer::Trainer;
use crate::training::workers::{Halt, Run, Workers};

/// Everything a run needs. The same setup (spec, data, seed, threads) gives the same weights.
pub struct PreFinetuneSetup {
    /// What the run starts from.
    pub encoder: Arc<Encoder>,
    pub tokenizer: Arc<Tokenizer>,
    pub fingerprint: Digest,
    pub spec: PreFinetuneSpec,
    pub ner: Vec<PoolSet>,
    pub classify: Vec<PoolSet>,
    /// Checkpoints live here; one that is there already is gone on from.
    pub checkpoint_folder: PathBuf,
    pub threads: usize,
}

/// What a run leaves. The primaries need the fingerprint of the backbone's folder, which only exists once it is written.
pub struct PreFinetuned {
    encoder: TrainableEncoder,
    primaries: Vec<(Primary, Vec<f32>)>,
    threshold: Option<f32>,
    /// Parent, spec, data and seed: for the file beside the weights. Nothing in it differs between two runs of one setup.
    pub provenance: Value,
    /// The series of measurements, plots and the calibration.
    pub report: Value,
    pub steps_per_second: f64,
}

pub enum PreFinetuneOutcome {
    Finished(Box<PreFinetuned>),
    /// Paused or cancelled, as `Control` asked.
    Stopped(Control),
}

impl PreFinetuned {
    /// Writes `model.safetensors`.
    pub fn write_weights(&self, path: &Path) -> Result<()> {
        self.encoder.write(path)
    }

    /// The family's primary for the backbone with this fingerprint. A family that was not trained has one too: fresh LoRA and
    /// an untrained head, so that each strategy leaves the same things.
    pub fn primary(&self, family: Family, fingerprint: &Digest) -> Result<AdapterFiles> {
        let (primary, numbers) = self
            .primaries
            .iter()
            .find(|(primary, _)| primary.family == family)
            .ok_or_else(|| Error::internal(format!("no primary of family {family}")))?;
        let origin = self.encoder.origin();
        let threshold = self.threshold.filter(|_| family == Family::Ner);
        let adapter = primary.finished(numbers, origin, |mut card| {
            card.backbone_fingerprint = fingerprint.clone();
            card.training = Some(self.provenance.clone());
            match threshold {
                Some(threshold) => card.with_concept_threshold(threshold),
                None => card,
            }
        })?;
        adapter.to_files(origin)
    }
}

/// Runs to the end, a pause or a cancel. Blocking; does its work on threads of its own.
pub fn pre_finetune(setup: PreFinetuneSetup, observer: &mut dyn Observer) -> Result<PreFinetuneOutcome> {
    let ended = run(setup, observer);
    give_back_memory();
    match ended {
        Ok(trained) => Ok(PreFinetuneOutcome::Finished(Box::new(trained))),
        Err(Halt::Stopped(control)) => Ok(PreFinetuneOutcome::Stopped(control)),
        Err(Halt::Failed(error)) => Err(error),
    }
}

fn run(mut setup: PreFinetuneSetup, observer: &mut dyn Observer) -> Run<PreFinetuned> {
    let (ner, classify) = (std::mem::take(&mut setup.ner), std::mem::take(&mut setup.classify));
    let pool = Pool::new(setup.spec.strategy.families(), ner, classify)?;
    let encoder = TrainableEncoder::new(setup.encoder.clone(), setup.kernel())?;
    let primaries = setup.primaries()?;
    let (trained, spare): (Vec<Primary>, Vec<Primary>) =
        primaries.into_iter().partition(|primary| setup.spec.strategy.families().contains(&primary.family));
    let checkpoints =
        Checkpoints { folder: setup.checkpoint_folder.clone(), run: setup.run_digest(&pool), threads: setup.threads };
    let begun = weights(&encoder, &trained)?;
    let mut state = resume(&checkpoints, &encoder, &trained, observer)?;
    info!(run = checkpoints.run, step = state.step, steps = setup.spec.hyperparameters.steps, "pre-finetuning");
    let asked = &setup.spec.hyperparameters;
    let reader = Reader::new(&setup.tokenizer, &pool, asked, setup.max_length());
    let trainer = Trainer::new(asked, &encoder, &trained, reader, &checkpoints, Workers(setup.threads))?;
    let steps_per_second = trainer.run(&mut state, observer)?;
    observer.event(TrainingEvent::Evaluating);
    let conflicts =
        Conflicts { begin: trainer.conflict(&begun, observer)?, end: trainer.conflict(&state.weights(), observer)? };
    drop(begun);
    if setup.kernel().is_bf16() {
        encoder.keep_bf16();
    }
    let calibrated = trainer.calibrate(&pool, &state, observer)?;
    drop(trainer);
    let account =
        Account { setup: &setup, pool: &pool, state: &state, calibrated: calibrated.as_ref(), conflicts: &conflicts };
    let (provenance, report) = (provenance(&account), report(&account));
    let numbers = |primary: &Primary| -> Result<Vec<f32>> {
        let trained = state.primaries.iter().find(|(family, _)| *family == primary.family);
        trained.map_or_else(|| primary.variables.flat(), |(_, trained)| Ok(trained.weights.clone()))
    };
    let primaries = trained.into_iter().chain(spare).map(|primary| numbers(&primary).map(|numbers| (primary, numbers)));
    let primaries = primaries.collect::<Result<_>>()?;
    let threshold = calibrated.map(|calibrated| calibrated.threshold);
    Ok(PreFinetuned { encoder, primaries, threshold, provenance, report, steps_per_second })
}

impl PreFinetuneSetup {
    /// No longer than the backbone can read.
    fn max_length(&self) -> usize {
        self.spec.hyperparameters.max_length.min(self.encoder.config().max_length)
    }

    fn kernel(&self) -> Kernel {
        Kernel::best(self.spec.hyperparameters.precision == TrainingPrecision::Bf16)
    }

    /// Of both families, in their order.
    fn primaries(&self) -> Result<Vec<Primary>> {
        let spec = &self.spec;
        let of = |family| Primary::new(family, spec.strategy, &spec.hyperparameters, &self.encoder, &self.fingerprint);
        [Family::Ner, Family::Classify].into_iter().map(of).collect()
    }

    /// Digest of everything that decides the run's course but the number of threads.
    fn run_digest(&self, pool: &Pool) -> String {
        let mut hasher = Sha256::new();
        let (spec, sets) = (&self.spec, &pool.digests);
        hasher.update(format!("{} {:?} {:?}\n", self.fingerprint, spec.strategy, spec.hyperparameters));
        hasher.update(format!("{:?} {:?} {sets:?}\n", spec.ner, spec.classify));
        Digest::from_sha256(&hasher.finalize().into()).to_string()
    }
}

/// The backbone's and each primary's.
fn weights(encoder: &TrainableEncoder, primaries: &[Primary]) -> Result<Vec<Vec<f32>>> {
    let own = primaries.iter().map(|primary| primary.variables.flat());
    std::iter::once(Ok(encoder.numbers())).chain(own).collect()
}

/// The newest checkpoint of this very run, or its beginning. The encoder has the state's weights then.
fn resume(
    checkpoints: &Checkpoints,
    encoder: &TrainableEncoder,
    primaries: &[Primary],
    observer: &mut dyn Observer,
) -> Result<State> {
    let (found, passed_over) = checkpoints.latest::<State>()?;
    passed_over.into_iter().for_each(|message| observer.event(TrainingEvent::Message(message)));
    if let Some(found) = found {
        observer.event(TrainingEvent::Message(format!("goes on from the checkpoint of step {}", found.state.step)));
        if found.threads != checkpoints.threads {
            observer.event(TrainingEvent::Message(format!(
                "the checkpoint was made with {} threads, this run has {}: the last bits of the result may differ",
                found.threads, checkpoints.threads
            )));
        }
        encoder.update(|numbers| numbers.copy_from_slice(&found.state.backbone.weights));
        return Ok(found.state);
    }
    let primary = |primary: &Primary| Ok((primary.family, Trained::new(primary.variables.flat()?)));
    Ok(State {
        step: 0,
        backbone: Trained::new(encoder.numbers()),
        primaries: primaries.iter().map(primary).collect::<Result<_>>()?,
        series: Series::default(),
    })
}
