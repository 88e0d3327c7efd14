//! The learning rate as a function of the step. Pure: knows no optimizer and no clock.

use crate::domain::Decay;

/// A line up to the peak, then a line or half a cosine down to (almost) nothing at the last step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Schedule {
    pub peak: f64,
    pub warmup_steps: u64,
    pub steps: u64,
    pub decay: Decay,
}

impl Schedule {
    /// The rate of step `step`, counted from 0. Never 0 within `steps`: no step is wasted.
    pub(super) fn learning_rate(&self, step: u64) -> f64 {
        let share = if step < self.warmup_steps {
            (step + 1) as f64 / self.warmup_steps as f64
        } else {
            let left = self.steps.saturating_sub(step) as f64 / (self.steps - self.warmup_steps).max(1) as f64;
            match self.decay {
                Decay::Linear => left,
                Decay::Cosine => (1.0 - (left * std::f64::consts::PI).cos()) / 2.0,
            }
        };
        self.peak * share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_to_the_peak_and_falls_to_the_last_step() {
        let schedule = Schedule { peak: 1.0, warmup_steps: 4, steps: 12, decay: Decay::Linear };
        let rates: Vec<f64> = (0..13).map(|step| schedule.learning_rate(step)).collect();
        let expected = [0.25, 0.5, 0.75, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0];
        assert_eq!(rates, expected);
    }

    #[test]
    fn a_cosine_is_flat_at_both_ends() {
        let schedule = Schedule { peak: 2.0, warmup_steps: 0, steps: 100, decay: Decay::Cosine };
        let rate = |step| schedule.learning_rate(step);
        assert_eq!(rate(0), 2.0);
        assert!((rate(50) - 1.0).abs() < 1e-9);
        assert!(rate(0) - rate(10) < rate(45) - rate(55) && rate(90) < 0.1 && rate(99) > 0.0);
    }

    #[test]
    fn without_warm_up_the_first_step_has_the_peak() {
        let schedule = Schedule { peak: 2.0, warmup_steps: 0, steps: 2, decay: Decay::Linear };
        assert_eq!((schedule.learning_rate(0), schedule.learning_rate(1)), (2.0, 1.0));
    }

    #[test]
    fn a_run_that_is_all_warm_up_divides_by_nothing() {
        let schedule = Schedule { peak: 1.0, warmup_steps: 3, steps: 3, decay: Decay::Linear };
        assert_eq!(schedule.learning_rate(2), 1.0);
        assert_eq!(schedule.learning_rate(3), 0.0);
    }
}
