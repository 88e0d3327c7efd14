//! Token–concept contrast (NuNER, Bogdanov et al. 2024): for each token and each concept, whether the token is of it.

use super::Loss;

/// A token is of few of the concepts it is compared with; without it "of none" would be learnt first.
const POSITIVE_WEIGHT: f64 = 4.0;

/// Weighted mean of the binary cross-entropy over the cells that are asked, in units of its value at chance, log 2.
/// `logits` and `cells` are (tokens, concepts); a cell of None is not asked: the token's data set does not know the concept.
pub(in crate::training) fn loss(logits: &[f32], cells: &[Option<bool>]) -> Loss {
    let weight = |wanted: bool| if wanted { POSITIVE_WEIGHT } else { 1.0 };
    let total: f64 = cells.iter().flatten().map(|&wanted| weight(wanted)).sum();
    let mut loss = Loss { sum: 0.0, slope: vec![0.0; logits.len()] };
    if total == 0.0 {
        return loss;
    }
    for ((slope, &logit), cell) in loss.slope.iter_mut().zip(logits).zip(cells) {
        let Some(wanted) = *cell else { continue };
        let scale = weight(wanted) / (total * std::f64::consts::LN_2);
        let x = f64::from(logit);
        // log(1 + eˣ), without overflow
        let softplus = x.max(0.0) + (-x.abs()).exp().ln_1p();
        loss.sum += scale * (softplus - if wanted { x } else { 0.0 });
        *slope = (scale * (1.0 / (1.0 + (-x).exp()) - f64::from(u8::from(wanted)))) as f32;
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_the_difference_quotient() {
        let logits = [0.3, -1.2, 2.0, 0.0, 30.0, -30.0];
        let cells = [Some(true), Some(false), None, Some(false), Some(true), Some(true)];
        let whole = loss(&logits, &cells);
        for i in 0..logits.len() {
            let moved = |by: f32| {
                let mut logits = logits;
                logits[i] += by;
                loss(&logits, &cells).sum
            };
            let quotient = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((quotient - f64::from(whole.slope[i])).abs() < 1e-4, "logit {i}: {quotient}, {}", whole.slope[i]);
        }
        assert_eq!(whole.slope[2], 0.0);
    }

    #[test]
    fn one_is_chance_and_nothing_asked_is_nothing() {
        assert!((loss(&[0.0; 4], &[Some(true), Some(false), Some(false), None]).sum - 1.0).abs() < 1e-12);
        assert_eq!(loss(&[1.0, 2.0], &[None, None]).sum, 0.0);
    }
}
