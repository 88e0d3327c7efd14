//! Symmetric InfoNCE (van den Oord et al. 2018) with in-batch negatives: each text must find its partner among the others', both ways.

use super::Loss;

/// Mean over rows and columns of `−log softmax` at the diagonal, each in units of its own value at chance, the logarithm of how
/// many it chooses from. `logits` is (n, n), texts against partners; `belong(i, j)`: j is no negative for i. A row that has no
/// negative is not asked.
pub(in crate::training) fn loss(logits: &[f32], n: usize, belong: impl Fn(usize, usize) -> bool) -> Loss {
    let mut loss = Loss { sum: 0.0, slope: vec![0.0; logits.len()] };
    // row i of the matrix, then of its transpose
    let lines: Vec<Vec<usize>> = (0..n)
        .map(|i| (0..n).map(|j| i * n + j).collect())
        .chain((0..n).map(|i| (0..n).map(|j| j * n + i).collect()))
        .collect();
    let allowed = |i: usize| (0..n).filter(|&j| i == j || !belong(i, j)).collect::<Vec<_>>();
    let allowed: Vec<Vec<usize>> = (0..n).map(allowed).collect();
    let asked = 2 * allowed.iter().filter(|line| line.len() > 1).count();
    for (line, places) in lines.iter().enumerate() {
        let i = line % n;
        if allowed[i].len() > 1 {
            let scale = 1.0 / (asked as f64 * (allowed[i].len() as f64).ln());
            loss.sum += add_line(&mut loss.slope, logits, places, &allowed[i], i, scale);
        }
    }
    loss
}

/// How far the similarities have moved from a teacher's (Hinton et al. 2015; to keep what a network could before, Li and Hoiem
/// 2016): mean over rows and columns of the Kullback–Leibler divergence from softmax(`teacher`) to softmax(`logits`), both (n, n),
/// in units of chance as [`loss`].
pub(in crate::training) fn drift(logits: &[f32], teacher: &[f32], n: usize) -> Loss {
    let mut loss = Loss { sum: 0.0, slope: vec![0.0; logits.len()] };
    if n < 2 {
        return loss;
    }
    let scale = 1.0 / (2.0 * n as f64 * (n as f64).ln());
    for line in 0..2 * n {
        let place = |j: usize| if line < n { line * n + j } else { j * n + line - n };
        let of = |numbers: &[f32]| log_softmax((0..n).map(|j| f64::from(numbers[place(j)])));
        for (j, (taught, own)) in of(teacher).into_iter().zip(of(logits)).enumerate() {
            loss.sum += scale * taught.exp() * (taught - own);
            loss.slope[place(j)] += (scale * (own.exp() - taught.exp())) as f32;
        }
    }
    loss
}

fn log_softmax(line: impl Iterator<Item = f64> + Clone) -> Vec<f64> {
    let highest = line.clone().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = line.clone().map(|x| (x - highest).exp()).sum();
    line.map(|x| x - highest - sum.ln()).collect()
}

/// Adds one line's slopes; returns its share of the loss.
fn add_line(slope: &mut [f32], logits: &[f32], places: &[usize], allowed: &[usize], own: usize, scale: f64) -> f64 {
    let at = |j: usize| f64::from(logits[places[j]]);
    let highest = allowed.iter().map(|&j| at(j)).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = allowed.iter().map(|&j| (at(j) - highest).exp()).sum();
    for &j in allowed {
        let share = (at(j) - highest).exp() / sum - if j == own { 1.0 } else { 0.0 };
        slope[places[j]] += (scale * share) as f32;
    }
    scale * (highest + sum.ln() - at(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 9] = [1.0, 0.2, -0.3, 0.5, 2.0, 0.1, -1.0, 0.4, 0.6];

    #[test]
    fn drift_is_nothing_at_the_teacher_and_slopes_back_to_it() {
        assert!(drift(&LOGITS, &LOGITS, 3).sum.abs() < 1e-12);
        assert!(drift(&LOGITS, &LOGITS, 3).slope.iter().all(|slope| slope.abs() < 1e-7));
        let teacher = [0.0, 1.0, 0.5, -0.5, 0.3, 2.0, 1.0, 0.0, -1.0];
        let whole = drift(&LOGITS, &teacher, 3);
        assert!(whole.sum > 0.1);
        for i in 0..LOGITS.len() {
            let moved = |by: f32| {
                let mut logits = LOGITS;
                logits[i] += by;
                drift(&logits, &teacher, 3).sum
            };
            let quotient = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((quotient - f64::from(whole.slope[i])).abs() < 1e-4, "logit {i}: {quotient}");
        }
    }

    #[test]
    fn the_slope_is_the_difference_quotient() {
        for belong in [|_, _| false, |i: usize, j: usize| i + j == 1] {
            let whole = loss(&LOGITS, 3, belong);
            for i in 0..LOGITS.len() {
                let moved = |by: f32| {
                    let mut logits = LOGITS;
                    logits[i] += by;
                    loss(&logits, 3, belong).sum
                };
                let quotient = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                assert!((quotient - f64::from(whole.slope[i])).abs() < 1e-4, "logit {i}: {quotient}");
            }
        }
    }

    #[test]
    fn one_is_chance_also_with_masked_partners() {
        assert!((loss(&[0.0; 16], 4, |_, _| false).sum - 1.0).abs() < 1e-6);
        assert!((loss(&[0.0; 16], 4, |i, j| i / 2 == j / 2).sum - 1.0).abs() < 1e-6);
        assert_eq!(loss(&[3.0; 4], 2, |_, _| true), Loss { sum: 0.0, slope: vec![0.0; 4] });
    }

    #[test]
    fn a_masked_partner_gets_no_slope() {
        let slope = loss(&LOGITS, 3, |i, j| i + j == 1).slope;
        assert_eq!((slope[1], slope[3]), (0.0, 0.0));
        assert!(slope[2] != 0.0);
    }
}
