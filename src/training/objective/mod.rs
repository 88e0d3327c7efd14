//! Losses with their slopes, on plain numbers: each is a pure function of logits and targets. Leaves forward and backward passes to the trainer.

mod binary;
pub(super) mod concepts;
pub(super) mod contrast;
mod cross_entropy;

/// What each row of logits should say.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Targets {
    /// One label a row; None: the row is not asked (special tokens, inner pieces of words).
    One(Vec<Option<u32>>),
    /// Any number of labels a row.
    Any(Vec<Vec<u32>>),
}

/// A loss summed over rows, and its derivative by every logit.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Loss {
    pub sum: f64,
    pub slope: Vec<f32>,
}

impl Loss {
    /// The sum of two losses of the same logits.
    pub(super) fn plus(mut self, other: &Self) -> Self {
        self.sum += other.sum;
        self.slope.iter_mut().zip(&other.slope).for_each(|(slope, more)| *slope += more);
        self
    }

    /// `factor` times the loss.
    pub(super) fn scaled(mut self, factor: f64) -> Self {
        self.sum *= factor;
        self.slope.iter_mut().for_each(|slope| *slope *= factor as f32);
        self
    }
}

impl Targets {
    /// The terms that a mean over these rows divides by: rows asked, or rows × labels where each label is a question of its own.
    pub(super) fn terms(&self, labels: usize) -> usize {
        match self {
            Self::One(rows) => rows.iter().flatten().count(),
            Self::Any(rows) => rows.len() * labels,
        }
    }

    /// `scale` times the loss of `logits`, (rows, labels).
    pub(super) fn loss(&self, logits: &[f32], labels: usize, scale: f64) -> Loss {
        match self {
            Self::One(rows) => cross_entropy::loss(logits, labels, rows, scale),
            Self::Any(rows) => binary::loss(logits, labels, rows, scale),
        }
    }

    /// Both, one after the other. All parts of a batch are of one kind.
    pub(super) fn extend(&mut self, more: &Self) {
        match (self, more) {
            (Self::One(rows), Self::One(more)) => rows.extend_from_slice(more),
            (Self::Any(rows), Self::Any(more)) => rows.extend_from_slice(more),
            _ => unreachable!("one dataset makes one kind of target"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slope against the loss's own difference quotient.
    fn check_slope(targets: &Targets, labels: usize, logits: &[f32]) {
        let loss = targets.loss(logits, labels, 0.5);
        for i in 0..logits.len() {
            let moved = |by: f32| {
                let mut logits = logits.to_vec();
                logits[i] += by;
                targets.loss(&logits, labels, 0.5).sum
            };
            let quotient = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((quotient - f64::from(loss.slope[i])).abs() < 1e-4, "logit {i}: {quotient}, {}", loss.slope[i]);
        }
    }

    #[test]
    fn slopes_equal_difference_quotients() {
        let logits = [0.3, -1.2, 2.0, 0.0, 0.5, -0.5];
        check_slope(&Targets::One(vec![Some(2), Some(0)]), 3, &logits);
        check_slope(&Targets::One(vec![None, Some(1)]), 3, &logits);
        check_slope(&Targets::Any(vec![vec![0, 2], vec![]]), 3, &logits);
    }

    #[test]
    fn terms_count_what_is_asked() {
        assert_eq!(Targets::One(vec![None, Some(1), Some(0)]).terms(5), 2);
        assert_eq!(Targets::Any(vec![vec![], vec![1]]).terms(5), 10);
    }
}
