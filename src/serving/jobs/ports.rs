//! What the runner needs of the rest of the house, and the house behind it. Tests put their own behind it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::adapter::{AdapterBundle, AdapterFiles};
use crate::domain::{
    AdapterName, AdapterRef, Cancel, DataRef, Digest, Error, ErrorKind, Family, FineTuneSpec, PreFinetuneSpec, Result,
};
use crate::serving::jobs::folder::Remains;
use crate::serving::{Backbone, Backbones, DatasetService, PublishedVersion, Registry};
use crate::training::dataset::{DatasetFamily, Split};
use crate::training::{
    Evaluation, FineTuneSetup, Observer, Outcome, PoolSet, PreFinetuneOutcome, PreFinetuneSetup, evaluate_adapter,
    fine_tune, pre_finetune,
};

/// Training data by name: its family and rows.
pub(super) trait DataSource: Send + Sync {
    /// Fails once it is cancelled.
    fn read(&self, reference: &DataRef, cancel: &Cancel) -> Result<(DatasetFamily, Split)>;
}

/// Trains and evaluates; both block.
pub(super) trait Trainer: Send + Sync {
    fn limits(&self) -> Limits;
    fn train(&self, run: TrainingRun, observer: &mut dyn Observer) -> Result<Outcome>;
    fn evaluate(&self, adapter: &AdapterFiles, split: &Split, dataset: &str) -> Result<Evaluation>;
    /// What it leaves, with the backbone's folder in its place; None: stopped, as the observer asked.
    fn pre_finetune(&self, run: PreFinetuningRun, observer: &mut dyn Observer) -> Result<Option<Remains>>;
}

/// Of the encoder that adapters are trained for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) layers: usize,
    /// Tokens, special ones included.
    pub(super) max_length: usize,
}

/// One fine-tuning run, apart from the machine it runs on.
pub(super) struct TrainingRun {
    pub(super) spec: FineTuneSpec,
    pub(super) train: Split,
    pub(super) validation: Option<Split>,
    pub(super) test: Option<Split>,
    pub(super) init: Option<AdapterFiles>,
    pub(super) checkpoint_folder: PathBuf,
    pub(super) job_id: String,
}

/// One pre-finetuning run, apart from the machine it runs on.
pub(super) struct PreFinetuningRun {
    pub(super) spec: PreFinetuneSpec,
    pub(super) ner: Vec<PoolSet>,
    pub(super) classify: Vec<PoolSet>,
    pub(super) checkpoint_folder: PathBuf,
}

/// The adapters there are, and the way for one more to get there. All methods block.
pub(super) trait Publisher: Send + Sync {
    /// What a name or alias means; `adapter_not_found` names the nearest.
    fn find(&self, reference: &AdapterRef) -> Result<Registered>;
    fn files(&self, reference: &AdapterRef) -> Result<AdapterFiles>;
    fn publish(&self, name: &AdapterName, files: AdapterFiles, activate: bool) -> Result<PublishedVersion>;
    fn activate(&self, name: &AdapterName, version: u32) -> Result<()>;
    /// Whether a backbone could be had under this name.
    fn has_backbone(&self, name: &str) -> Result<bool>;
    /// Whether `name` (or `default`) stands for the backbone that jobs start from.
    fn is_active_backbone(&self, name: &str) -> Result<bool>;
    /// Makes a backbone resident, for adapters that are made for it.
    fn load_backbone(&self, name: &str) -> Result<()>;
    fn activate_backbone(&self, name: &str) -> Result<()>;
}

/// An adapter as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    /// Of the adapter itself, also where an alias led to it.
    pub(super) name: AdapterName,
    /// None if none of its versions could be read.
    pub(super) family: Option<Family>,
    pub(super) active: Option<u32>,
    pub(super) versions: Vec<(u32, Digest)>,
}

/// None where nothing has that name yet.
pub(super) fn registered(publisher: &dyn Publisher, name: &AdapterName) -> Result<Option<Registered>> {
    match publisher.find(&AdapterRef { name: name.clone(), version: None }) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::AdapterNotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl DataSource for DatasetService {
    fn read(&self, reference: &DataRef, cancel: &Cancel) -> Result<(DatasetFamily, Split)> {
        let (family, split, _digest) = self.read_until(reference, cancel)?;
        Ok((family, split))
    }
}

/// `training` on the active backbone; what is trained, is evaluated on the backbone it was trained on.
pub(super) struct HouseTrainer {
    pub(super) backbones: Arc<Backbones>,
    pub(super) threads: usize,
}

fn open(files: &AdapterFiles, backbone: &Backbone) -> Result<AdapterBundle> {
    AdapterBundle::read(files, backbone.resident.encoder(), backbone.fingerprint())
}

impl Trainer for HouseTrainer {
    fn limits(&self) -> Limits {
        let backbone = self.backbones.active();
        let config = backbone.resident.encoder().config();
        Limits { layers: config.layers, max_length: config.max_length }
    }

    fn train(&self, run: TrainingRun, observer: &mut dyn Observer) -> Result<Outcome> {
        let backbone = self.backbones.active();
        let setup = FineTuneSetup {
            encoder: backbone.resident.encoder().clone(),
            tokenizer: backbone.tokenizer.clone(),
            fingerprint: backbone.fingerprint().clone(),
            init: run.init.as_ref().map(|files| open(files, &backbone)).transpose()?,
            spec: run.spec,
            train: run.train,
            validation: run.validation,
            test: run.test,
            pools_mean: None,
            checkpoint_folder: run.checkpoint_folder,
            threads: self.threads,
            job_id: Some(run.job_id),
        };
        fine_tune(setup, observer)
    }

    fn pre_finetune(&self, run: PreFinetuningRun, observer: &mut dyn Observer) -> Result<Option<Remains>> {
        let backbone = self.backbones.active();
        let outputs = run.spec.outputs.clone();
        let setup = PreFinetuneSetup {
            encoder: backbone.resident.encoder().clone(),
            tokenizer: backbone.tokenizer.clone(),
            fingerprint: backbone.fingerprint().clone(),
            spec: run.spec,
            ner: run.ner,
            classify: run.classify,
            checkpoint_folder: run.checkpoint_folder,
            threads: self.threads,
        };
        let PreFinetuneOutcome::Finished(trained) = pre_finetune(setup, observer)? else { return Ok(None) };
        let mut write = |path: &Path| trained.write_weights(path);
        let made = self.backbones.keep(outputs.backbone.as_str(), &backbone, &trained.provenance, &mut write)?;
        let primary = |family| Ok((family, trained.primary(family, &made.fingerprint)?));
        let primaries = [Family::Ner, Family::Classify].into_iter().map(primary).collect::<Result<_>>()?;
        Ok(Some(Remains { backbone: made, primaries, report: trained.report.clone() }))
    }

    fn evaluate(&self, adapter: &AdapterFiles, split: &Split, dataset: &str) -> Result<Evaluation> {
        let backbone = self.backbones.of(&adapter.read_card()?.backbone_fingerprint)?;
        let bundle = open(adapter, &backbone)?;
        evaluate_adapter(backbone.resident.encoder(), &backbone.tokenizer, &bundle, split, dataset, self.threads)
    }
}

/// The registry, from threads that may block on it.
pub(super) struct HousePublisher {
    pub(super) registry: Arc<Registry>,
    pub(super) runtime: Handle,
}

impl HousePublisher {
    /// An alias stands for its one target; a split has no one adapter to start from.
    fn target(&self, reference: &AdapterRef) -> Result<AdapterRef> {
        if self.registry.get(&reference.name).is_ok() {
            return Ok(reference.clone());
        }
        let aliases = self.registry.aliases()?;
        let Some((_, alias)) = aliases.iter().find(|(name, _)| *name == reference.name) else {
            return Ok(reference.clone());
        };
        match alias.targets.as_slice() {
            [only] => Ok(only.adapter.clone()),
            several => Err(Error::conflict(format!("alias {reference} stands for {} adapters", several.len()))),
        }
    }
}

impl Publisher for HousePublisher {
    fn find(&self, reference: &AdapterRef) -> Result<Registered> {
        let view = self.registry.get(&self.target(reference)?.name)?;
        Ok(Registered {
            name: view.name,
            family: view.family,
            active: view.active_version,
            versions: view.versions.into_iter().map(|version| (version.version, version.digest)).collect(),
        })
    }

    fn files(&self, reference: &AdapterRef) -> Result<AdapterFiles> {
        let target = self.target(reference)?;
        self.runtime.block_on(self.registry.files(&target.name, target.version))
    }

    fn publish(&self, name: &AdapterName, files: AdapterFiles, activate: bool) -> Result<PublishedVersion> {
        self.runtime.block_on(self.registry.publish(name, files, activate))
    }

    fn activate(&self, name: &AdapterName, version: u32) -> Result<()> {
        self.runtime.block_on(self.registry.activate(name, version)).map(drop)
    }

    fn has_backbone(&self, name: &str) -> Result<bool> {
        Ok(self.runtime.block_on(self.registry.backbones().names())?.iter().any(|known| known == name))
    }

    fn is_active_backbone(&self, name: &str) -> Result<bool> {
        let active = self.registry.backbones().active();
        Ok(name == "default" || name == active.identity().name || name == active.fingerprint().as_str())
    }

    fn load_backbone(&self, name: &str) -> Result<()> {
        self.runtime.block_on(self.registry.load_backbone(name))
    }

    fn activate_backbone(&self, name: &str) -> Result<()> {
        self.runtime.block_on(self.registry.activate_backbone(name))
    }
}
