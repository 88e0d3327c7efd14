//! Strips of f32 into a kernel's numbers.

use super::{Isa, Number};

/// A strip to narrow: `rows` × `cols`, rows `stride` apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strip {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) stride: usize,
}

/// `to[i][j] = from[i][j]`, rounded to nearest even; rows of `to` are `to_stride` apart.
pub(super) fn narrow<I: Isa>(to: &mut [I::Number], to_stride: usize, from: &[f32], strip: Strip) {
    let holds = |len: usize, stride: usize| strip.rows == 0 || (strip.rows - 1) * stride + strip.cols <= len;
    assert!(holds(to.len(), to_stride) && holds(from.len(), strip.stride), "a strip fits both sides");
    I::narrow(to, to_stride, from, strip.stride, strip.rows, strip.cols);
}

/// All of `from`, rounded.
pub fn round<I: Isa>(to: &mut [I::Number], from: &[f32]) {
    narrow::<I>(to, from.len(), from, Strip { rows: 1, cols: from.len(), stride: from.len() });
}

/// One number after the other.
pub(super) fn plain<N: Number>(
    to: &mut [N],
    to_stride: usize,
    from: &[f32],
    from_stride: usize,
    rows: usize,
    cols: usize,
) {
    for row in 0..rows {
        let (to, from) = (&mut to[row * to_stride..][..cols], &from[row * from_stride..][..cols]);
        to.iter_mut().zip(from).for_each(|(to, from)| *to = N::from_f32(*from));
    }
}
