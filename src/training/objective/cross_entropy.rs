//! Softmax cross-entropy with rows left out: `−log softmax(z)[y]`, slope `softmax(z) − onehot(y)`.

use crate::training::objective::Loss;

/// Over the rows of `logits` that have a target, `scale` times; the others' slope is 0.
pub(super) fn loss(logits: &[f32], labels: usize, targets: &[Option<u32>], scale: f64) -> Loss {
    assert_eq!(logits.len(), labels * targets.len(), "one row of logits a target");
    let mut loss = Loss { sum: 0.0, slope: vec![0.0; logits.len()] };
    let rows = logits.chunks_exact(labels).zip(loss.slope.chunks_exact_mut(labels));
    for ((row, slope), target) in rows.zip(targets) {
        let Some(target) = *target else { continue };
        loss.sum += scale * row_loss(row, target as usize, scale, slope);
    }
    loss
}

/// The loss of one row; `slope` becomes `scale` times its derivative.
fn row_loss(row: &[f32], target: usize, scale: f64, slope: &mut [f32]) -> f64 {
    let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponential = |logit: f32| f64::from(logit - highest).exp();
    let sum: f64 = row.iter().map(|&logit| exponential(logit)).sum();
    for (label, (slope, &logit)) in slope.iter_mut().zip(row).enumerate() {
        let wanted = f64::from(u8::from(label == target));
        *slope = (scale * (exponential(logit) / sum - wanted)) as f32;
    }
    sum.ln() - f64::from(row[target] - highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_row_costs_the_logarithm_of_the_labels() {
        let loss = loss(&[1.0, 1.0, 1.0, 1.0], 4, &[Some(3)], 1.0);
        assert!((loss.sum - 4f64.ln()).abs() < 1e-12);
        assert_eq!(loss.slope, [0.25, 0.25, 0.25, -0.75]);
    }

    #[test]
    fn rows_without_a_target_cost_nothing() {
        let loss = loss(&[9.0, -9.0, 0.0, 0.0], 2, &[None, Some(0)], 1.0);
        assert!((loss.sum - 2f64.ln()).abs() < 1e-12);
        assert_eq!(loss.slope, [0.0, 0.0, -0.5, 0.5]);
    }

    #[test]
    fn huge_logits_stay_finite_and_a_nan_shows() {
        let large = loss(&[1e30, -1e30], 2, &[Some(1)], 1.0);
        assert!(large.sum.is_finite() && large.slope == [1.0, -1.0], "{large:?}");
        assert!(loss(&[f32::NAN, 0.0], 2, &[Some(1)], 1.0).sum.is_nan());
    }
}
