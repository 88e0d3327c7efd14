//! Rotary positions: pairs of a head's numbers turned by an angle that grows with the token's place in its sequence.

/// Cosines and sines, row-major (positions, head size / 2).
#[derive(Clone, Copy, Debug)]
pub struct Angles<'a> {
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    /// Head size / 2.
    pub half: usize,
}

/// Which way to turn: `Back` undoes `Forth`, and is its gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Forth,
    Back,
}

/// Turns the first `heads` heads of each row of `xs`, whose rows are `width` long.
pub fn rotate(xs: &mut [f32], width: usize, heads: usize, bounds: &[usize], angles: Angles<'_>, turn: Turn) {
    for sequence in bounds.windows(2) {
        for (position, token) in (sequence[0]..sequence[1]).enumerate() {
            let row = &mut xs[token * width..][..heads * 2 * angles.half];
            let at = position * angles.half..(position + 1) * angles.half;
            row.chunks_exact_mut(2 * angles.half)
                .for_each(|head| rotate_head(head, &angles.cos[at.clone()], &angles.sin[at.clone()], turn));
        }
    }
}

/// The pairs are (i, half + i).
fn rotate_head(head: &mut [f32], cos: &[f32], sin: &[f32], turn: Turn) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let sin = if turn == Turn::Forth { *sin } else { -sin };
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kernels::testing::{assert_close, numbers};

    #[test]
    fn positions_begin_anew_in_each_sequence_and_turning_back_undoes() {
        let angle = [0.0, 0.0, 0.5, 0.25f32];
        let (cos, sin) = (angle.map(f32::cos), angle.map(f32::sin));
        let angles = Angles { cos: &cos, sin: &sin, half: 2 };
        let start = numbers(3 * 12, 1); // three tokens, three heads of four; the last head stays
        let mut xs = start.clone();
        rotate(&mut xs, 12, 2, &[0, 2, 3], angles, Turn::Forth);
        assert_close(&xs[..12], &start[..12], 1e-6);
        assert_close(&xs[24..], &start[24..], 1e-6);
        assert_close(&xs[12 + 8..24], &start[12 + 8..24], 0.0);
        let [a, b] = [start[12 + 4], start[12 + 6]];
        assert_close(&[xs[12 + 4], xs[12 + 6]], &[a * cos[2] - b * sin[2], b * cos[2] + a * sin[2]], 1e-6);
        rotate(&mut xs, 12, 2, &[0, 2, 3], angles, Turn::Back);
        assert_close(&xs, &start, 1e-6);
    }
}
