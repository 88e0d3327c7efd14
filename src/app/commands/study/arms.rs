//! The arms of a study as models: the plain backbone, and what pre-finetuning makes of it, once for each arm.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::folder::Folder;
use super::run::{Limit, Pools};
use crate::adapter::AdapterFiles;
use crate::app::commands::adapters::files_of;
use crate::app::pre_finetuning;
use crate::app::progress::Progress;
use crate::app::wiring::{Model, ModelArgs};
use crate::domain::{Digest, Error, Family, JobSpec, PreFinetuneSpec, Result};
use crate::serving::jobs::parse_spec;
use crate::training::study::{Arm, ArmAccount, ArmModel, ArmStrategy, Cleared, PrimaryAdapter, Study};
use crate::training::{Control, Observer, PoolSet, TrainingEvent};

/// What pre-finetuning leaves in an arm's folder.
const BACKBONE: &str = "backbone";
const NER_PRIMARY: &str = "ner-primary";
const CLASSIFY_PRIMARY: &str = "classify-primary";

/// What every arm begins with.
pub(super) struct Start<'a> {
    pub(super) study: &'a Study,
    pub(super) base: &'a Model,
    pub(super) args: &'a ModelArgs,
    pub(super) pools: &'a Pools,
    pub(super) folder: &'a Folder,
}

impl Start<'_> {
    /// All arms, pre-finetuned where they are not yet. None: the time was up before.
    pub(super) fn ready(&self, limit: &Limit) -> Result<Option<Vec<ArmModel>>> {
        let mut models = Vec::new();
        for arm in &self.study.arms {
            if arm.strategy == ArmStrategy::None {
                models.push(self.plain());
            } else if self.is_pre_finetuned(arm)? || self.pre_finetune(arm, limit)? {
                models.push(self.load(arm).map_err(|error| error.context(&arm.name))?);
            } else {
                return Ok(None);
            }
        }
        Ok(Some(models))
    }

    fn plain(&self) -> ArmModel {
        ArmModel {
            encoder: self.base.encoder.clone(),
            tokenizer: self.base.tokenizer.clone(),
            fingerprint: self.base.fingerprint.clone(),
            ner: None,
            classify: None,
        }
    }

    /// `conflict` if what is there was made from something else.
    fn is_pre_finetuned(&self, arm: &Arm) -> Result<bool> {
        let Some(account) = self.folder.account(&arm.name)? else { return Ok(false) };
        if account.inputs == self.inputs(arm)? {
            return Ok(true);
        }
        Err(Error::conflict(format!(
            "{} was made by other settings, rows or another backbone: choose another --out, or remove that folder and the \
             arm's rows from rows.jsonl",
            self.folder.arm(&arm.name).display()
        )))
    }

    /// False: the time is up; the next run goes on from the checkpoint.
    fn pre_finetune(&self, arm: &Arm, limit: &Limit) -> Result<bool> {
        if limit.is_reached() {
            return Ok(false);
        }
        let spec = self.spec(arm)?;
        let of = |family: Family| -> Vec<PoolSet> {
            let is_read = arm.strategy.serves(family);
            self.pools.of(family).iter().filter(|_| is_read).map(pool_set).collect()
        };
        let mut watch = Watch { progress: Progress::steps(&format!("pre-finetuning {}", arm.name)), limit };
        let rows = (of(Family::Ner), of(Family::Classify));
        let left = pre_finetuning::run(self.base, &spec, rows, &self.folder.arm(&arm.name), &mut watch)?;
        watch.progress.finish();
        let Some(left) = left else { return Ok(false) };
        let part = |part: &str| left.report.pointer(&format!("/pre_finetune/{part}")).cloned().unwrap_or_default();
        let unreadable =
            |error: serde_json::Error| Error::internal(format!("{}: its report is not a study's: {error}", arm.name));
        self.folder.put_account(&ArmAccount {
            arm: arm.name.clone(),
            inputs: self.inputs(arm)?,
            backbone: left.backbone.fingerprint.to_string(),
            seconds: spec.hyperparameters.steps as f64 / left.steps_per_second.max(f64::MIN_POSITIVE),
            points: serde_json::from_value(part("series")).map_err(unreadable)?,
            conflict: serde_json::from_value(part("conflict")).map_err(unreadable)?,
        })?;
        Ok(true)
    }

    /// The job that `trunkline train pre-finetune` would run on the arm's pool.
    fn spec(&self, arm: &Arm) -> Result<PreFinetuneSpec> {
        let sets = |family: Family| {
            let set = |set: &Cleared| json!({"name": set.name, "weight": set.weight});
            json!({ "datasets": self.pools.of(family).iter().map(set).collect::<Vec<Value>>() })
        };
        let settings = self.study.pre_finetune(arm);
        let job = json!({
            "kind": "pre_finetune",
            "strategy": arm.strategy.as_str(),
            "ner": sets(Family::Ner),
            "classify": sets(Family::Classify),
            "hyperparameters": serde_json::to_value(&settings).map_err(|error| Error::internal(error.to_string()))?,
            "outputs": {"backbone": BACKBONE, "ner_primary": NER_PRIMARY, "classify_primary": CLASSIFY_PRIMARY},
        });
        match parse_spec(job).map_err(|error| error.context(&arm.name))? {
            JobSpec::PreFinetune(spec) => Ok(spec),
            JobSpec::FineTune(_) => Err(Error::internal("a pre-finetuning spec was read as another")),
        }
    }

    /// Digest of everything that decides what an arm becomes.
    fn inputs(&self, arm: &Arm) -> Result<String> {
        let mut hasher = Sha256::new();
        hasher.update(format!("{} {:?}\n", self.base.fingerprint, self.spec(arm)?));
        for set in [Family::Ner, Family::Classify].into_iter().flat_map(|family| self.pools.of(family)) {
            hasher.update(format!("{} {}\n", set.name, set.digest));
        }
        Ok(Digest::from_sha256(&hasher.finalize().into()).to_string())
    }

    fn load(&self, arm: &Arm) -> Result<ArmModel> {
        let folder = self.folder.arm(&arm.name);
        let name = folder.join(BACKBONE).display().to_string();
        let model = self.args.load_from(&self.args.cache(), &name)?;
        let primary = |name: &str| -> Result<Option<PrimaryAdapter>> {
            let files = primary_files(&folder.join(name))?;
            files.map(|files| PrimaryAdapter::read(&files, &model.encoder, &model.fingerprint)).transpose()
        };
        Ok(ArmModel {
            ner: primary(NER_PRIMARY)?.filter(|_| arm.strategy.serves(Family::Ner)),
            classify: primary(CLASSIFY_PRIMARY)?.filter(|_| arm.strategy.serves(Family::Classify)),
            encoder: model.encoder,
            tokenizer: model.tokenizer,
            fingerprint: model.fingerprint,
        })
    }
}

fn primary_files(folder: &Path) -> Result<Option<AdapterFiles>> {
    if folder.is_dir() { files_of(folder).map(Some) } else { Ok(None) }
}

fn pool_set(set: &Cleared) -> PoolSet {
    PoolSet { name: set.name.clone(), weight: set.weight, split: set.split.clone() }
}

/// Shows a pre-finetuning, and pauses it at the study's limit.
struct Watch<'a> {
    progress: Progress,
    limit: &'a Limit,
}

impl Observer for Watch<'_> {
    fn event(&mut self, event: TrainingEvent) {
        match event {
            TrainingEvent::Step { step, steps, loss, .. } => {
                self.progress.set(&format!("loss {loss:.4}"), step, Some(steps));
            }
            TrainingEvent::Message(message) => self.progress.line(&message),
            _ => {}
        }
    }

    fn control(&mut self) -> Control {
        if self.limit.is_reached() { Control::Pause } else { Control::Continue }
    }
}
