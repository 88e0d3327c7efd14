//! Sigmoid cross-entropy for rows with any number of labels: each label is a question of its own.

use crate::training::objective::Loss;

/// `log(1 + eᶻ) − y·z` over all logits, `scale` times; slope `sigmoid(z) − y`.
pub(super) fn loss(logits: &[f32], labels: usize, targets: &[Vec<u32>], scale: f64) -> Loss {
    assert_eq!(logits.len(), labels * targets.len(), "one row of logits a target");
    let mut loss = Loss { sum: 0.0, slope: Vec::with_capacity(logits.len()) };
    for (row, target) in logits.chunks_exact(labels).zip(targets) {
        for (label, &logit) in row.iter().enumerate() {
            let (logit, wanted) = (f64::from(logit), f64::from(u8::from(target.contains(&(label as u32)))));
            // log(1 + eᶻ) without overflow
            loss.sum += scale * (logit.max(0.0) + (-logit.abs()).exp().ln_1p() - wanted * logit);
            loss.slope.push((scale * (sigmoid(logit) - wanted)) as f32);
        }
    }
    loss
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_undecided_row_costs_log_two_a_label() {
        let loss = loss(&[0.0, 0.0], 2, &[vec![1]], 1.0);
        assert!((loss.sum - 2.0 * 2f64.ln()).abs() < 1e-12);
        assert_eq!(loss.slope, [0.5, -0.5]);
    }

    #[test]
    fn huge_logits_stay_finite() {
        let loss = loss(&[1e4, -1e4], 2, &[vec![0]], 1.0);
        assert_eq!((loss.sum, loss.slope), (0.0, vec![0.0, 0.0]));
    }
}
