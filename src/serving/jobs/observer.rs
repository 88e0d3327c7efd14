//! A run's events become the job's events, figures and gauges; what callers want becomes the run's control.

use std::time::{Instant, SystemTime};

use serde_json::{Map, Value, json};

use crate::domain::{JobId, JobState, Result};
use crate::serving::jobs::desk::Desk;
use crate::serving::jobs::journal::{NewEvent, Progress};
use crate::serving::jobs::progress::MetricsPace;
use crate::training::{Control, Observer, TrainingEvent, Validated};

/// A journal that fails to take progress does not stop a run; the states around it insist.
pub(super) struct JobObserver<'a> {
    desk: &'a Desk,
    id: &'a JobId,
    pace: MetricsPace,
    /// The newest step's figures: a validation's event shows them too.
    newest: Value,
    evaluates: bool,
}

impl<'a> JobObserver<'a> {
    pub(super) fn new(desk: &'a Desk, id: &'a JobId) -> Self {
        Self { desk, id, pace: MetricsPace::default(), newest: json!({}), evaluates: false }
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        self.desk.metrics.show_job(&self.id.0, step.progress.step, step.loss, step.tokens_per_second);
        self.newest = step.to_json();
        if !self.pace.is_due(Instant::now()) && step.progress.step != step.progress.steps {
            return Ok(());
        }
        let Progress { step: number, steps, .. } = step.progress;
        let event = NewEvent::metrics(format!("step {number} of {steps}: loss {:.4}", step.loss), step.to_json());
        self.desk.journal.measured(self.id, Some(step.progress), &step.figures(), event, SystemTime::now())
    }

    fn validation(&self, step: u64, epoch: u32, validated: &Validated, best: bool) -> Result<()> {
        let Validated { metrics, rows, method, interval } = validated;
        let figures: Vec<(String, f64)> =
            metrics.iter().map(|(name, figure)| (format!("validation_{name}"), *figure)).collect();
        let mut validation: Map<String, Value> =
            metrics.iter().map(|(name, figure)| ((*name).to_owned(), json!(figure))).collect();
        let of_rows = [("rows", json!(rows)), ("method", json!(method.as_str())), ("interval", json!(interval))];
        validation.extend(of_rows.map(|(key, value)| (key.to_owned(), value)));
        let figures_shown: Vec<String> = metrics.iter().map(|(name, figure)| format!("{name} {figure:.4}")).collect();
        let note = if best { ", the best so far" } else { "" };
        let message = format!("validation after epoch {epoch}: {} on {rows} rows{note}", figures_shown.join(", "));
        let mut data = self.newest.clone();
        let shown =
            [("step", json!(step)), ("epoch", json!(epoch)), ("validation", json!(validation)), ("best", json!(best))];
        shown.into_iter().for_each(|(key, value)| data[key] = value);
        let event = NewEvent::metrics(message, data);
        self.desk.journal.measured(self.id, None, &figures, event, SystemTime::now())
    }

    /// The job's progress becomes what was run.
    fn stopped_early(&self, step: u64, steps: u64, kept: u64) -> Result<()> {
        let (journal, now) = (&self.desk.journal, SystemTime::now());
        let message = format!(
            "stopped early after step {step} of {steps}: validation was no better any more; the weights of step {kept} are kept"
        );
        let epoch = journal.job(self.id)?.view.epoch;
        let data = json!({ "step": step, "steps": steps, "kept_step": kept, "stopped_early": true });
        let progress = Progress { step, steps: step, epoch };
        journal.measured(self.id, Some(progress), &[], NewEvent::metrics(message, data), now)
    }

    fn record(&mut self, event: TrainingEvent) -> Result<()> {
        let (journal, now) = (&self.desk.journal, SystemTime::now());
        match event {
            TrainingEvent::Message(message) => journal.append(self.id, NewEvent::message(message), now),
            TrainingEvent::Settled { epochs, batch_size, learning_rate, steps } => {
                let message = format!(
                    "{steps} steps: {epochs} epochs of batches of {batch_size}, learning rate {learning_rate} at its peak"
                );
                journal.append(self.id, NewEvent::message(message), now)
            }
            TrainingEvent::Step { step, steps, epoch, loss, learning_rate, tokens_per_second, rows_per_second } => {
                let progress = Progress { step, steps, epoch };
                self.step(&Step { progress, loss, learning_rate, tokens_per_second, rows_per_second })
            }
            TrainingEvent::Validation { step, epoch, validated, best } => {
                self.validation(step, epoch, &validated, best)
            }
            TrainingEvent::StoppedEarly { step, steps, kept } => self.stopped_early(step, steps, kept),
            TrainingEvent::Warning(warning) => journal.append(self.id, NewEvent::warning(warning), now),
            TrainingEvent::Measured(measurement) => {
                let message = format!("gradients measured after step {}", measurement.step);
                journal.append(self.id, NewEvent::metrics(message, measurement.to_json()), now)
            }
            TrainingEvent::Checkpoint { step, .. } => journal.checkpointed(self.id, step, now),
            TrainingEvent::Evaluating => {
                self.desk.become_state(self.id, JobState::Evaluating, "evaluating")?;
                self.evaluates = true;
                Ok(())
            }
        }
    }
}

impl Observer for JobObserver<'_> {
    fn event(&mut self, event: TrainingEvent) {
        if let Err(error) = self.record(event) {
            tracing::warn!(job = %self.id, %error, "job progress not recorded");
        }
    }

    fn control(&mut self) -> Control {
        self.desk.steering.control(!self.evaluates)
    }
}

/// One training step's figures.
struct Step {
    progress: Progress,
    loss: f64,
    learning_rate: f64,
    tokens_per_second: f64,
    rows_per_second: f64,
}

impl Step {
    fn figures(&self) -> Vec<(String, f64)> {
        [
            ("loss", self.loss),
            ("learning_rate", self.learning_rate),
            ("tokens_per_second", self.tokens_per_second),
            ("rows_per_second", self.rows_per_second),
        ]
        .map(|(name, figure)| (name.to_owned(), figure))
        .to_vec()
    }

    fn to_json(&self) -> Value {
        json!({
            "step": self.progress.step,
            "steps": self.progress.steps,
            "epoch": self.progress.epoch,
            "loss": self.loss,
            "learning_rate": self.learning_rate,
            "tokens_per_second": self.tokens_per_second,
            "rows_per_second": self.rows_per_second,
        })
    }
}
