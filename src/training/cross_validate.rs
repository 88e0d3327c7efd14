//! What models say of rows that they were not trained on, where rows are too few to spare any. Each fold is a run of its own, with
//! the recipe of its own rows and checkpoints in a folder of its own. Leaves what becomes of the answers to `fine_tune`.

use crate::domain::Error;
use crate::training::data::{Data, FOLDS};
use crate::training::fine_tune::{Control, FineTuneSetup, Observer, TrainingEvent};
use crate::training::plan::Plan;
use crate::training::predict::Answer;
use crate::training::prefix::KEPT_BYTES_MAX;
use crate::training::workers::{Run, Workers};

/// One answer for each training row of `data`, of the model that has not seen it.
pub(super) fn cross_validate(setup: &FineTuneSetup, data: &Data, progress: &mut Progress<'_>) -> Run<Vec<Answer>> {
    let mut answers: Vec<Option<Answer>> = vec![None; data.training.len()];
    for fold in 0..FOLDS {
        let (part, rows) = data.fold(fold);
        let plan = Plan::new(setup, &part, setup.checkpoint_folder.join(format!("fold-{}", fold + 1)))?;
        let mut observer = progress.part(plan.recipe.steps, Some(fold + 1));
        let mut budget = KEPT_BYTES_MAX;
        let training = setup.hold(&plan.adapter, &part.training, &mut budget, &mut observer)?;
        let held = setup.hold(&plan.adapter, &part.validation, &mut budget, &mut observer)?;
        let (state, _) = plan.train(setup, &part, [&training, &held], &mut observer)?;
        let adapter = plan.adapter_of(setup, &state)?;
        let steer = &mut || observer.control();
        let said = held.answers(&setup.encoder, &adapter, Workers(setup.threads), steer)?;
        rows.into_iter().zip(said).for_each(|(row, answer)| answers[row] = Some(answer));
    }
    let missing = || Error::internal("a row is in no fold");
    Ok(answers.into_iter().collect::<Option<_>>().ok_or_else(missing)?)
}

/// Several runs as one: their steps are counted on, and an observer sees one run of all of them.
pub(super) struct Progress<'a> {
    observer: &'a mut dyn Observer,
    done: u64,
    steps: u64,
}

impl<'a> Progress<'a> {
    /// `steps`: of all runs.
    pub(super) fn of(observer: &'a mut dyn Observer, steps: u64) -> Self {
        Self { observer, done: 0, steps }
    }

    /// The next run, of so many steps: a fold, counted from 1, or the last one.
    pub(super) fn part(&mut self, steps: u64, fold: Option<usize>) -> Part<'_> {
        let before = self.done;
        self.done += steps;
        Part { observer: &mut *self.observer, before, steps: self.steps, fold }
    }
}

/// The observer of one run of several.
pub(super) struct Part<'a> {
    observer: &'a mut dyn Observer,
    before: u64,
    steps: u64,
    fold: Option<usize>,
}

impl Observer for Part<'_> {
    fn event(&mut self, event: TrainingEvent) {
        let event = match (event, self.fold) {
            (TrainingEvent::Step { step, epoch, loss, learning_rate, tokens_per_second, rows_per_second, .. }, _) => {
                let (step, steps) = (self.before + step, self.steps);
                TrainingEvent::Step { step, steps, epoch, loss, learning_rate, tokens_per_second, rows_per_second }
            }
            (TrainingEvent::Message(message), Some(fold)) => {
                TrainingEvent::Message(format!("fold {fold} of {FOLDS}: {message}"))
            }
            // those of the last run alone are gone on from as the job's
            (TrainingEvent::Checkpoint { .. }, Some(_)) => return,
            (event, _) => event,
        };
        self.observer.event(event);
    }

    fn control(&mut self) -> Control {
        self.observer.control()
    }
}
