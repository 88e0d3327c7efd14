//! Rotary positions on tensors.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

use super::function::{Function, apply1, floats};
use super::plain;
use crate::model::kernels::{self, Angles, Mat, Turn};

/// Cosines and sines of every position, (positions, head size / 2).
#[derive(Clone)]
pub(crate) struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    /// Pair `i` of a head turns by position · theta^(−2i / head size).
    pub(crate) fn new(positions: usize, head_size: usize, theta: f64, device: &Device) -> Result<Self> {
        let half = head_size / 2;
        // the reference library computes these in f32
        let speed = |i: usize| 1.0 / (theta as f32).powf((2 * i) as f32 / head_size as f32);
        let angle = |at: usize| (at / half) as f32 * speed(at % half);
        let angles = |f: fn(f32) -> f32| {
            let table: Vec<f32> = (0..positions * half).map(|at| f(angle(at))).collect();
            Tensor::from_vec(table, (positions, half), device)
        };
        Ok(Self { cos: angles(f32::cos)?, sin: angles(f32::sin)? })
    }

    /// Turns queries and keys, the first two thirds of each row of `qkv`.
    pub(super) fn forward(&self, qkv: &Tensor, bounds: &Arc<[usize]>) -> Result<Tensor> {
        if qkv.device().is_cpu() {
            apply1(Turned { rotary: self.clone(), bounds: bounds.clone() }, &qkv.contiguous()?)
        } else {
            self.plain(qkv, bounds)
        }
    }

    /// Cosines and sines.
    pub(crate) fn tables(&self) -> [&Tensor; 2] {
        [&self.cos, &self.sin]
    }

    pub(super) fn plain(&self, qkv: &Tensor, bounds: &[usize]) -> Result<Tensor> {
        let hidden = qkv.dim(1)? / 3;
        let rows = |table: &Tensor| Tensor::cat(&plain::per_sequence(bounds, |_, len| table.narrow(0, 0, len))?, 0);
        let turned = plain::rotate(&qkv.narrow(1, 0, 2 * hidden)?.contiguous()?, &rows(&self.cos)?, &rows(&self.sin)?)?;
        Tensor::cat(&[turned, qkv.narrow(1, 2 * hidden, hidden)?], 1)
    }
}

struct Turned {
    rotary: Rotary,
    bounds: Arc<[usize]>,
}

impl Turned {
    /// Calls `then` with the angles and the number of heads to turn in a row of a given width.
    fn angles<R>(&self, then: impl FnOnce(Angles<'_>, &dyn Fn(usize) -> usize) -> R) -> Result<R> {
        let (cos, sin) = (floats(&self.rotary.cos)?, floats(&self.rotary.sin)?);
        let half = self.rotary.cos.dim(1)?;
        Ok(then(Angles { cos: &cos, sin: &sin, half }, &|width| width / 3 * 2 / (2 * half)))
    }

    fn apply(&self, x: Mat<'_>, turn: Turn) -> Result<Vec<f32>> {
        let mut y = x.to_vec();
        self.angles(|angles, heads| kernels::rotate(&mut y, x.cols(), heads(x.cols()), &self.bounds, angles, turn))?;
        Ok(y)
    }
}

impl Function<1> for Turned {
    const NAME: &'static str = "rotary positions";

    fn forward(&self, [qkv]: [Mat<'_>; 1]) -> Result<(Vec<f32>, usize)> {
        Ok((self.apply(qkv, Turn::Forth)?, qkv.cols()))
    }

    fn backward(&self, _: [Mat<'_>; 1], gradient: Mat<'_>, _: [bool; 1]) -> Result<[Option<Vec<f32>>; 1]> {
        Ok([Some(self.apply(gradient, Turn::Back)?)])
    }
}
