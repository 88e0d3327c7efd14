//! A pre-finetuning job on its way through the states. What it leaves is found again after a crash: the backbone by its folder,
//! the primaries in the job's own folder, and published ones by their digest, which names the backbone they are for.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::domain::{AdapterName, Cancel, Digest, Family, JobId, JobState, PreFinetuneSpec, Publish, Result};
use crate::serving::PublishedVersion;
use crate::serving::jobs::check::Rows;
use crate::serving::jobs::desk::Desk;
use crate::serving::jobs::folder::{JobFolder, Remains};
use crate::serving::jobs::journal::{Ending, Intent};
use crate::serving::jobs::observer::JobObserver;
use crate::serving::jobs::ports::{PreFinetuningRun, registered};
use crate::training::Control;

/// Each stage answers None where the job was asked to stop.
pub(super) struct PreFinetuning<'a> {
    pub(super) desk: &'a Desk,
    pub(super) id: &'a JobId,
    pub(super) spec: &'a PreFinetuneSpec,
    pub(super) folder: &'a JobFolder,
}

impl PreFinetuning<'_> {
    pub(super) fn run(&self) -> Result<Option<Ending>> {
        self.desk.steering.ask(self.id, self.desk.journal.job(self.id)?.wish);
        let remains = match self.folder.remains()? {
            Some(remains) => remains,
            None => match self.train()? {
                Some(remains) => remains,
                None => return Ok(None),
            },
        };
        self.enter_evaluation()?;
        if self.desk.steering.control(false) != Control::Continue {
            return Ok(None);
        }
        if self.spec.publish == Publish::Never {
            self.report(&remains, &[])?;
            return Ok(Some(Ending::Succeeded(None)));
        }
        if !self.begin_publishing(&remains)? {
            return Ok(Some(Ending::Cancelled));
        }
        let published = self.publish(&remains)?;
        self.report(&remains, &published)?;
        let family = self.spec.strategy.families()[0];
        let first = published.into_iter().find(|(of, _)| *of == family).map(|(_, version)| version);
        Ok(Some(Ending::Succeeded(first)))
    }

    fn train(&self) -> Result<Option<Remains>> {
        let (ner, classify) = self.desk.check_pre_finetune(self.spec, Rows::Keep, &Cancel::default())?;
        let run = PreFinetuningRun {
            spec: self.spec.clone(),
            ner,
            classify,
            checkpoint_folder: self.folder.checkpoint_folder()?,
        };
        if self.desk.steering.control(true) != Control::Continue {
            return Ok(None);
        }
        self.desk.become_state(self.id, JobState::Running, "running")?;
        let mut observer = JobObserver::new(self.desk, self.id);
        let Some(remains) = self.desk.trainer.pre_finetune(run, &mut observer)? else { return Ok(None) };
        self.folder.save_remains(&remains)?;
        Ok(Some(remains))
    }

    /// From here on the job is not cancelled any more, also after a crash.
    fn begin_publishing(&self, remains: &Remains) -> Result<bool> {
        let intent = Intent { digest: remains.backbone.fingerprint.clone(), after: 0 };
        self.desk.journal.begin_publishing(self.id, &intent, SystemTime::now())
    }

    fn enter_evaluation(&self) -> Result<()> {
        match self.desk.journal.job(self.id)?.view.status {
            JobState::Evaluating => Ok(()),
            _ => self.desk.become_state(self.id, JobState::Evaluating, "evaluating"),
        }
    }

    /// Primaries first, so that the backbone has them when it is activated.
    fn publish(&self, remains: &Remains) -> Result<Vec<(Family, PublishedVersion)>> {
        let publisher = &*self.desk.publisher;
        let activates = self.spec.publish == Publish::Activate;
        publisher.load_backbone(&remains.backbone.name)?;
        let mut published = Vec::new();
        for (family, files) in &remains.primaries {
            let name = self.spec.outputs.primary(*family);
            let version = match self.found(name, &files.digest())? {
                Some(version) => version,
                None => publisher.publish(name, files.clone(), false)?,
            };
            if activates && !version.active {
                publisher.activate(name, version.version)?;
            }
            published.push((*family, PublishedVersion { active: activates || version.active, ..version }));
        }
        if activates {
            publisher.activate_backbone(&remains.backbone.name)?;
        }
        Ok(published)
    }

    /// The version that is these very files: published before a crash.
    fn found(&self, name: &AdapterName, digest: &Digest) -> Result<Option<PublishedVersion>> {
        let Some(found) = registered(&*self.desk.publisher, name)? else { return Ok(None) };
        let version = found.versions.iter().find(|(_, known)| known == digest).map(|(version, _)| *version);
        Ok(version.map(|version| PublishedVersion {
            name: name.clone(),
            version,
            digest: digest.clone(),
            active: found.active == Some(version),
        }))
    }

    fn report(&self, remains: &Remains, published: &[(Family, PublishedVersion)]) -> Result<()> {
        let mut report = remains.report.clone();
        let version = |version: &PublishedVersion| {
            json!({
                "adapter": version.name.as_str(),
                "version": version.version,
                "digest": version.digest.as_str(),
                "active": version.active,
            })
        };
        let of = |wanted: Family| published.iter().find(|(family, _)| *family == wanted).map(|(_, v)| version(v));
        report["published"] = match published {
            [] => Value::Null,
            _ => json!({ "ner_primary": of(Family::Ner), "classify_primary": of(Family::Classify) }),
        };
        report["backbone"] =
            json!({ "name": remains.backbone.name, "fingerprint": remains.backbone.fingerprint.as_str() });
        self.folder.write_report(&report)
    }
}
