//! The thread that runs jobs, one at a time, oldest first: validate, train, judge, publish. It outlives every job.

mod pre_finetune;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::sync::watch;

use crate::domain::{Cancel, Error, FineTuneSpec, Gate, JobId, JobSpec, JobState, Publish, Result};
use crate::serving::PublishedVersion;
use crate::serving::jobs::desk::Desk;
use crate::serving::jobs::folder::{Figures, JobFolder, Trained};
use crate::serving::jobs::gate::{Measured, Verdict};
use crate::serving::jobs::journal::{Ending, Intent, Job, NewEvent, Wish};
use crate::serving::jobs::observer::JobObserver;
use crate::serving::jobs::ports::{TrainingRun, registered};
use crate::training::{Control, Evaluation, Outcome};
use pre_finetune::PreFinetuning;

/// Before a journal that failed (a full disk, say) is tried again.
const JOURNAL_RETRY: Duration = Duration::from_secs(5);

/// Its fields go in their order: who sees `_alive` close may open the desk again.
pub(super) struct Runner {
    pub(super) desk: Arc<Desk>,
    /// Rung when there may be work, and when it is time to stop.
    pub(super) bell: Receiver<()>,
    /// Closes when the thread ends.
    pub(super) _alive: watch::Sender<()>,
}

impl Runner {
    /// Until the desk says stop, or nobody holds the bell.
    pub(super) fn run(self) {
        while !self.desk.steering.is_stopping() {
            let rested = match self.next() {
                Ok(Some(job)) => {
                    self.work(&job);
                    Ok(())
                }
                Ok(None) => self.bell.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Err(error) => {
                    tracing::error!(%error, "job journal failed; no job runs until it works again");
                    self.bell.recv_timeout(JOURNAL_RETRY)
                }
            };
            if rested == Err(RecvTimeoutError::Disconnected) {
                break;
            }
        }
    }

    fn next(&self) -> Result<Option<Job>> {
        self.desk.recover("a failure of the server")?;
        self.desk.take_next()
    }

    /// Whatever happens in it, the job's state says so and the thread lives.
    fn work(&self, job: &Job) {
        let id = &job.view.id;
        tracing::info!(job = %id, kind = job.view.spec.kind(), "job begins");
        let folder = self.desk.folder(id);
        self.desk.steering.begin(id);
        let run = || match &job.view.spec {
            JobSpec::FineTune(spec) => FineTuning { desk: &self.desk, job, id, spec, folder: &folder }.run(),
            JobSpec::PreFinetune(spec) => PreFinetuning { desk: &self.desk, id, spec, folder: &folder }.run(),
        };
        let outcome = catch_unwind(AssertUnwindSafe(run))
            .unwrap_or_else(|_panic| Err(Error::internal("the job ran into a bug of the server; its log says more")));
        self.desk.steering.end();
        let settled = match outcome {
            Ok(Some(ending)) => self.desk.end(id, &ending),
            Ok(None) => put_aside(&self.desk, id, &folder),
            Err(error) if self.desk.steering.is_stopping() => Err(error.context("cut short by the shutdown")),
            Err(error) => {
                tracing::warn!(job = %id, %error, "job failed");
                self.desk.end(id, &Ending::Failed(error))
            }
        };
        match settled {
            Ok(()) => tracing::info!(job = %id, "job leaves the runner"),
            Err(error) => tracing::error!(job = %id, %error, "job is left as it is and goes on later"),
        }
    }
}

/// One job on its way through the states. Each stage answers None where the job was asked to stop.
struct FineTuning<'a> {
    desk: &'a Desk,
    job: &'a Job,
    id: &'a JobId,
    spec: &'a FineTuneSpec,
    folder: &'a JobFolder,
}

impl FineTuning<'_> {
    fn run(&self) -> Result<Option<Ending>> {
        // A wish from between the queue and `Steering::begin` is in the journal alone.
        self.desk.steering.ask(self.id, self.desk.journal.job(self.id)?.wish);
        let trained = match self.folder.trained()? {
            Some(trained) => trained,
            None => match self.train()? {
                Some(trained) => trained,
                None => return Ok(None),
            },
        };
        if self.job.intent.is_none() {
            self.enter_evaluation()?;
            if let Some(ending) = self.judge(&trained)? {
                return Ok(Some(ending));
            }
        }
        if self.desk.steering.control(false) != Control::Continue {
            return Ok(None);
        }
        self.publish(trained).map(Some)
    }

    fn train(&self) -> Result<Option<Trained>> {
        let data = self.desk.check(self.spec, &Cancel::default())?;
        let init = self.spec.init_from.as_ref().map(|init| self.desk.publisher.files(init)).transpose()?;
        let run = TrainingRun {
            spec: self.spec.clone(),
            train: data.train,
            validation: data.validation,
            test: data.test,
            init,
            checkpoint_folder: self.folder.checkpoint_folder()?,
            job_id: self.id.0.clone(),
        };
        if self.desk.steering.control(true) != Control::Continue {
            return Ok(None);
        }
        self.desk.become_state(self.id, JobState::Running, "running")?;
        let mut observer = JobObserver::new(self.desk, self.id);
        let Outcome::Finished(trained) = self.desk.trainer.train(run, &mut observer)? else { return Ok(None) };
        let trained = Trained::from(*trained);
        self.folder.save_trained(&trained)?;
        Ok(Some(trained))
    }

    /// Unless the run's own event has brought it there.
    fn enter_evaluation(&self) -> Result<()> {
        match self.desk.journal.job(self.id)?.view.status {
            JobState::Evaluating => Ok(()),
            _ => self.desk.become_state(self.id, JobState::Evaluating, "evaluating"),
        }
    }

    /// Writes the report. Some: the job ends here, without publication.
    fn judge(&self, trained: &Trained) -> Result<Option<Ending>> {
        let figures = &trained.figures;
        let verdict = self.spec.gate.as_ref().map(|gate| self.verdict(gate, figures)).transpose()?;
        let report = json!({
            "validation": figures.validation,
            "test": figures.test,
            "method": figures.validation.method.as_str(),
            "interval": figures.validation.interval,
            "calibration": figures.calibration,
            "warnings": figures.warnings,
            "gate": verdict.as_ref().map(Verdict::to_json),
            "rows_per_second": figures.rows_per_second,
            "tokens_per_second": figures.tokens_per_second,
            "digest": trained.files.digest().as_str(),
        });
        self.folder.write_report(&report)?;
        let event = NewEvent::metrics("evaluated", json!({ "gate": report["gate"] }));
        self.desk.journal.measured(self.id, None, &headline(trained), event, SystemTime::now())?;
        if let Some(shortfall) = verdict.and_then(|verdict| verdict.shortfall()) {
            return Ok(Some(Ending::Rejected(shortfall)));
        }
        Ok((self.spec.publish == Publish::Never).then_some(Ending::Succeeded(None)))
    }

    fn verdict(&self, gate: &Gate, figures: &Figures) -> Result<Verdict> {
        let active = if gate.not_worse_than_active { self.active_figure(gate)? } else { None };
        let (split, evaluation) = match &figures.test {
            Some(test) if gate.is_on_test(self.spec) => ("test", test),
            _ => ("validation", &figures.validation),
        };
        let measured = Measured {
            value: figure(evaluation, gate)?,
            rows: evaluation.rows,
            method: evaluation.method.as_str(),
            interval: evaluation.interval,
        };
        Ok(Verdict::new(gate.clone(), split, measured, active))
    }

    /// The version that answers now, on the same split.
    fn active_figure(&self, gate: &Gate) -> Result<Option<(u32, f64)>> {
        let Some(reference) = gate.split_of(self.spec) else { return Ok(None) };
        let found = registered(&*self.desk.publisher, &self.spec.adapter)?;
        let Some(version) = found.and_then(|found| found.active) else { return Ok(None) };
        let (_, split) = self.desk.data.read(reference, &Cancel::default())?;
        let name = self.spec.adapter.clone();
        let files = self.desk.publisher.files(&crate::domain::AdapterRef { name, version: Some(version) })?;
        let evaluation = self.desk.trainer.evaluate(&files, &split, &reference.to_string())?;
        Ok(Some((version, figure(&evaluation, gate)?)))
    }

    /// Exactly once: after a crash in here, the version that is there already is the result.
    fn publish(&self, trained: Trained) -> Result<Ending> {
        let found = registered(&*self.desk.publisher, &self.spec.adapter)?;
        let versions = found.as_ref().map_or(&[][..], |found| &found.versions);
        let newest = versions.iter().map(|(version, _)| *version).max().unwrap_or(0);
        let digest = trained.files.digest();
        let intent = self.job.intent.clone().unwrap_or(Intent { digest: digest.clone(), after: newest });
        if !self.desk.journal.begin_publishing(self.id, &intent, SystemTime::now())? {
            return Ok(Ending::Cancelled);
        }
        let ours = versions.iter().find(|(version, found)| *version > intent.after && *found == digest);
        let result = match ours {
            Some(&(version, _)) => {
                let active = found.as_ref().and_then(|found| found.active);
                self.adopt(
                    PublishedVersion {
                        name: self.spec.adapter.clone(),
                        version,
                        digest,
                        active: active == Some(version),
                    },
                    active,
                )?
            }
            None => self.desk.publisher.publish(&self.spec.adapter, trained.files, self.activates())?,
        };
        Ok(Ending::Succeeded(Some(result)))
    }

    /// Takes over the version that this job published before a crash, and activates it if the crash came before that.
    /// A newer version that somebody has activated since stays.
    fn adopt(&self, version: PublishedVersion, active: Option<u32>) -> Result<PublishedVersion> {
        let overtaken = active.is_some_and(|active| active >= version.version);
        if !self.activates() || overtaken {
            return Ok(version);
        }
        self.desk.publisher.activate(&version.name, version.version)?;
        Ok(PublishedVersion { active: true, ..version })
    }

    fn activates(&self) -> bool {
        self.spec.publish == Publish::Activate
    }
}

/// The job was stopped; the journal's wish tells why. None: the server stops, or a pause was taken back.
fn put_aside(desk: &Desk, id: &JobId, folder: &JobFolder) -> Result<()> {
    let job = desk.journal.job(id)?;
    let step = folder.latest_checkpoint();
    let from = step.map_or_else(|| "from the beginning".to_owned(), |step| format!("from checkpoint step {step}"));
    match job.wish {
        Some(Wish::Cancel) => return desk.end(id, &Ending::Cancelled),
        Some(Wish::Pause) if job.view.status.may_become(JobState::Paused) => {
            desk.become_state(id, JobState::Paused, &format!("paused; goes on {from} when resumed"))?;
        }
        _ => desk.become_state(id, JobState::Queued, &format!("put back; goes on {from}"))?,
    }
    desk.metrics.remove_job(&id.0);
    Ok(())
}

fn figure(evaluation: &Evaluation, gate: &Gate) -> Result<f64> {
    let metric = gate.metric;
    let missing = || Error::unprocessable(format!("gate.metric: the evaluation has no {}", metric.as_str()));
    evaluation.metric(metric).ok_or_else(missing)
}

/// The figures a list of jobs shows.
fn headline(trained: &Trained) -> Vec<(String, f64)> {
    use crate::domain::GateMetric::{Accuracy, F1, MacroF1, Precision, Recall, WeightedF1};
    let splits = [("validation", Some(&trained.figures.validation)), ("test", trained.figures.test.as_ref())];
    let of = |(split, evaluation): (&'static str, Option<&Evaluation>)| {
        let metrics = [F1, MacroF1, WeightedF1, Accuracy, Precision, Recall];
        let known = metrics.into_iter().filter_map(move |metric| Some((metric, evaluation?.metric(metric)?)));
        known.map(move |(metric, figure)| (format!("{split}_{}", metric.as_str()), figure)).collect::<Vec<_>>()
    };
    splits.into_iter().flat_map(of).collect()
}
