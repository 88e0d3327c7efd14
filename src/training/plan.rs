//! What a run trains, by which numbers, from where: settled before the first step. Leaves the steps to `trainer`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use crate::adapter::{AdapterBundle, LoraConfig};
use crate::domain::{Digest, Error, Family, HeadForm, LabelSet, Result};
use crate::training::card::{card, chosen_layers, lora_config};
use crate::training::checkpoint::{Checkpoints, State};
use crate::training::data::Data;
use crate::training::fine_tune::{FineTuneSetup, Observer, TrainingEvent};
use crate::training::pace::Pace;
use crate::training::predict::Held;
use crate::training::settle::Recipe;
use crate::training::trainer::{Judge, Trainer};
use crate::training::variables::Variables;
use crate::training::warm_start::{WarmStart, are_few};
use crate::training::workers::{Run, Workers};

/// What is trained, by which numbers, from where.
pub(super) struct Plan {
    /// Before training; its tensors are no variables.
    fresh: AdapterBundle,
    /// Made of `variables`.
    pub adapter: AdapterBundle,
    variables: Variables,
    /// The variables' first values.
    initial: Vec<f32>,
    pub recipe: Recipe,
    pub checkpoints: Checkpoints,
}

impl Plan {
    /// `checkpoint_folder`: where this run keeps its own.
    pub(super) fn new(setup: &FineTuneSetup, data: &Data, checkpoint_folder: PathBuf) -> Result<Self> {
        let is_few = are_few(data.training.len(), data.labels.len());
        let fresh = fresh_adapter(setup, &data.labels, pools_mean(setup, is_few))?;
        let (adapter, variables) = Variables::of(&fresh, &setup.encoder)?;
        let recipe = recipe(setup, data, data.training.len());
        let initial = variables.flat()?;
        let checkpoints = Checkpoints {
            folder: checkpoint_folder,
            run: run_digest(setup, &recipe, data, &initial),
            threads: setup.threads,
        };
        Ok(Self { fresh, adapter, variables, initial, recipe, checkpoints })
    }

    pub(super) fn settled(&self) -> TrainingEvent {
        TrainingEvent::Settled {
            epochs: self.recipe.epochs,
            batch_size: self.recipe.batch_size as u32,
            learning_rate: self.recipe.learning_rate,
            steps: self.recipe.steps,
        }
    }

    pub(super) fn train(
        &self,
        setup: &FineTuneSetup,
        data: &Data,
        [training, validation]: [&Held<'_>; 2],
        observer: &mut dyn Observer,
    ) -> Run<(State, Pace)> {
        let trainer = Trainer {
            encoder: &setup.encoder,
            adapter: &self.adapter,
            variables: &self.variables,
            training,
            targets: &training.sequences.targets(&data.training, &data.labels, setup.train.multi_label)?,
            judge: data
                .judges(setup.spec.hyperparameters.early_stopping_patience)
                .then(|| Judge { validation, asked: setup.asked() }),
            recipe: &self.recipe,
            workers: Workers(setup.threads),
            checkpoints: &self.checkpoints,
        };
        let mut state = resume(&self.checkpoints, &self.initial, observer)?;
        if state.step == 0 && self.recipe.warm_start {
            self.warm_start(setup, data, training, &mut state.weights, observer)?;
            state.average.clone_from(&state.weights);
        }
        let pace = trainer.run(&mut state, observer)?;
        Ok((state, pace))
    }

    /// Seconds of work, done again if the run is stopped before its first checkpoint.
    fn warm_start(
        &self,
        setup: &FineTuneSetup,
        data: &Data,
        training: &Held<'_>,
        weights: &mut [f32],
        observer: &mut dyn Observer,
    ) -> Run<()> {
        let begin = WarmStart {
            encoder: &setup.encoder,
            tokenizer: &setup.tokenizer,
            adapter: &self.adapter,
            variables: &self.variables,
            training,
            examples: &data.training,
            init: setup.init.as_ref(),
            recipe: &self.recipe,
            workers: Workers(setup.threads),
        };
        let done = begin.run(weights, &mut || observer.control())?;
        done.into_iter().for_each(|message| observer.event(TrainingEvent::Message(message)));
        Ok(())
    }

    /// The adapter of the best epoch.
    pub(super) fn adapter_of(&self, setup: &FineTuneSetup, state: &State) -> Result<AdapterBundle> {
        let best = state.best.as_ref().map_or(&state.average, |best| &best.weights);
        self.fresh.with_tensors(&setup.encoder, &self.variables.tensors(best)?)
    }
}

/// The recipe for `rows` of `data`'s labels.
pub(super) fn recipe(setup: &FineTuneSetup, data: &Data, rows: usize) -> Recipe {
    let is_few = are_few(rows, data.labels.len());
    let knows_names = setup.init.as_ref().is_some_and(|init| init.card.head == HeadForm::Concepts);
    Recipe::settle(setup.spec.family, &setup.spec.hyperparameters, rows, is_few || knows_names)
}

/// What a classifier reads, if the setup does not say: what the adapter to start from reads, else the mean of the tokens where rows
/// are few (its space needs no pooler to be learnt), else what the architecture's own does.
fn pools_mean(setup: &FineTuneSetup, is_few: bool) -> bool {
    let usual = match &setup.init {
        Some(init) => init.card.pooling == "mean" || init.card.head == HeadForm::Similarity,
        None => is_few,
    };
    setup.spec.family == Family::Classify && setup.pools_mean.unwrap_or(usual)
}

/// A new adapter, or a copy of the one to start from: of its head too where it has the same labels.
fn fresh_adapter(setup: &FineTuneSetup, labels: &LabelSet, pools_mean: bool) -> Result<AdapterBundle> {
    let spec = &setup.spec;
    let config = match &setup.init {
        // what it was trained for is not what it is trained for now
        Some(init) => grown(setup, &init.config)?,
        None => lora_config(spec.family, &spec.hyperparameters, &setup.encoder)?,
    };
    let card = card(setup, labels, pools_mean);
    let fresh = AdapterBundle::fresh(config, card, &setup.encoder, spec.hyperparameters.seed)?;
    let Some(init) = &setup.init else { return Ok(fresh) };
    if init.family() != spec.family {
        return Err(Error::conflict(format!(
            "init_from is an adapter of family {}; {} is wanted",
            init.family(),
            spec.family
        )));
    }
    let own: Vec<String> = fresh.trainable().into_iter().map(|(name, _)| name).collect();
    let same_labels = init.labels == *labels;
    let kept =
        init.trainable().into_iter().filter(|(name, _)| own.contains(name) && (same_labels || name.contains("lora_")));
    fresh.with_tensors(&setup.encoder, &kept.collect())
}

/// The configuration of the adapter to start from, and fresh LoRA of the same rank in the layers that are asked for besides (`auto`: by
/// the family): what it has learnt stays where it is, and the new task has as much room as it has without it.
fn grown(setup: &FineTuneSetup, init: &LoraConfig) -> Result<LoraConfig> {
    let asked = &setup.spec.hyperparameters;
    let wanted = chosen_layers(&asked.layers, setup.spec.family, setup.encoder.config().layers)?;
    let with_wanted = |own: &Vec<usize>| -> Vec<usize> {
        let both: BTreeSet<usize> = own.iter().copied().chain(wanted).collect();
        both.into_iter().collect()
    };
    let layers = init.layers_to_transform.as_ref().map(with_wanted);
    // what it was trained for is not what it is trained for now
    Ok(LoraConfig { task_type: None, layers_to_transform: layers, ..init.clone() })
}

/// The newest checkpoint of this very run, or its beginning.
fn resume(checkpoints: &Checkpoints, initial: &[f32], observer: &mut dyn Observer) -> Result<State> {
    let (found, passed_over) = checkpoints.latest::<State>()?;
    passed_over.into_iter().for_each(|message| observer.event(TrainingEvent::Message(message)));
    let Some(found) = found else { return Ok(State::new(initial.to_vec())) };
    observer.event(TrainingEvent::Message(format!("goes on from the checkpoint of step {}", found.state.step)));
    if found.threads != checkpoints.threads {
        observer.event(TrainingEvent::Message(format!(
            "the checkpoint was made with {} threads, this run has {}: the last bits of the result may differ",
            found.threads, checkpoints.threads
        )));
    }
    Ok(found.state)
}

/// Digest of everything that decides the run's course but the number of threads.
fn run_digest(setup: &FineTuneSetup, recipe: &Recipe, data: &Data, initial: &[f32]) -> String {
    let mut hasher = Sha256::new();
    // Debug forms quote their strings, so no two rows read alike
    hasher.update(format!("{} {recipe:?} {:?}\n", setup.fingerprint, setup.asked()));
    hasher.update(format!("{} {:?} {}\n", setup.spec.family, data.labels, setup.max_length()));
    initial.iter().for_each(|number| hasher.update(number.to_le_bytes()));
    for example in data.training.iter().chain(&data.validation) {
        hasher.update(format!("{example:?}\n"));
    }
    hasher.update(data.training.len().to_le_bytes());
    Digest::from_sha256(&hasher.finalize().into()).to_string()
}
