//! A linear of the encoder, frozen or trained, with each segment's low-rank update: base product once for all tokens.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::function::{Function, apply1, apply3, floats};
use super::trained::TrainedLinear;
use super::{Pass, Place, plain};
use crate::model::kernels::packed::{Frozen, Kernel};
use crate::model::kernels::{self, Dropout, Mat, MatMut, multiply, multiply_add};
use crate::model::{Delta, Site};

/// `y = x·Wᵀ + b`, and what adapters add at this site.
pub(crate) struct Linear {
    site: Site,
    weights: Weights,
}

enum Weights {
    /// They get no gradient.
    Frozen(Base),
    Trained(TrainedLinear),
}

/// What one adapter changes here.
struct Part<'a> {
    rows: Range<usize>,
    delta: Option<&'a Delta>,
    /// (out)
    bias: Option<&'a Tensor>,
}

impl Linear {
    /// `weight` as checkpoints keep it, (out, in).
    pub(crate) fn new(site: Site, weight: &Tensor, bias: Option<Tensor>, kernel: Kernel) -> Result<Self> {
        let frozen = Arc::new(Frozen::new(kernel));
        Ok(Self { site, weights: Weights::Frozen(Base { weight: weight.t()?.contiguous()?, bias, frozen }) })
    }

    pub(crate) fn trained(site: Site, weights: TrainedLinear) -> Self {
        Self { site, weights: Weights::Trained(weights) }
    }

    /// (out, in)
    pub(crate) fn shape(&self) -> (usize, usize) {
        match &self.weights {
            Weights::Frozen(base) => (base.weight.dims()[1], base.weight.dims()[0]),
            Weights::Trained(linear) => (linear.out, linear.width),
        }
    }

    /// Of frozen weights.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let base = self.frozen();
        base.into_iter().flat_map(|base| std::iter::once(&base.weight).chain(&base.bias))
    }

    fn frozen(&self) -> Option<&Base> {
        match &self.weights {
            Weights::Frozen(base) => Some(base),
            Weights::Trained(_) => None,
        }
    }

    /// To be called when trained weights have changed.
    pub(crate) fn refresh(&self) {
        if let Weights::Trained(linear) = &self.weights {
            linear.refresh();
        }
    }

    /// (tokens, in) to (tokens, out).
    pub(super) fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        if !x.device().is_cpu() {
            return self.plain(x, pass);
        }
        self.differentiable(x, &self.parts(pass)?, pass)
    }

    /// Wᵀ, (in, out), and the bias, (out); of frozen weights.
    pub(crate) fn weights(&self) -> Result<(&Tensor, Option<&Tensor>)> {
        let Some(base) = self.frozen() else { bail!("weights under training are not packed for serving") };
        Ok((&base.weight, base.bias.as_ref()))
    }

    fn parts<'a>(&self, pass: &Pass<'a>) -> Result<Vec<Part<'a>>> {
        let (out, width) = self.shape();
        let mut parts = Vec::new();
        for (rows, weights) in &pass.adapters.0 {
            let (delta, bias) = (weights.deltas().get(&self.site), weights.bias_deltas().get(&self.site));
            let rank = delta.map_or(0, |delta| delta.a.dims()[0]);
            let fits = delta.is_none_or(|delta| delta.a.dims() == [rank, width] && delta.b.dims() == [out, rank]);
            if !fits || bias.is_some_and(|bias| bias.dims() != [out]) {
                bail!("an adapter's update of {:?} does not fit its ({out}, {width})", self.site);
            }
            if delta.is_some() || bias.is_some() {
                parts.push(Part { rows: rows.clone(), delta, bias });
            }
        }
        Ok(parts)
    }

    /// Each part by an operation of its own, the rows between them by the base alone.
    fn differentiable(&self, x: &Tensor, parts: &[Part<'_>], pass: &Pass<'_>) -> Result<Tensor> {
        let x = x.contiguous()?;
        let tokens = x.dim(0)?;
        let pieces = cover(parts, tokens).map(|(rows, part)| {
            let x = if rows.len() == tokens { x.clone() } else { x.narrow(0, rows.start, rows.len())? };
            self.piece(&x, part, pass)
        });
        match pieces.collect::<Result<Vec<_>>>()? {
            pieces if pieces.len() == 1 => Ok(pieces[0].clone()),
            pieces => Tensor::cat(&pieces, 0),
        }
    }

    fn piece(&self, x: &Tensor, part: Option<&Part<'_>>, pass: &Pass<'_>) -> Result<Tensor> {
        let update = part.and_then(|part| part.delta).map(|delta| (delta, LowRank::of(delta, self.site, pass)));
        let y = match (&self.weights, update) {
            (Weights::Frozen(base), Some((delta, update))) => {
                apply3(Adapted { base: base.clone(), update }, [x, &delta.a, &delta.b])?
            }
            (Weights::Frozen(base), None) => apply1(base.clone(), x)?,
            (Weights::Trained(linear), Some((delta, update))) => {
                (linear.forward(x, pass.sink)? + apply3(update, [x, &delta.a, &delta.b])?)?
            }
            (Weights::Trained(linear), None) => linear.forward(x, pass.sink)?,
        };
        match part.and_then(|part| part.bias) {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    /// On other devices, and the reference of the other two in tests.
    pub(super) fn plain(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let parts = self.parts(pass)?;
        let (tokens, (out, _)) = (x.dim(0)?, self.shape());
        let (weight, bias) = self.weights()?;
        let y = plain::linear(x, &weight.t()?, bias)?;
        if parts.is_empty() {
            return Ok(y);
        }
        let updates = cover(&parts, tokens).map(|(rows, part)| {
            let mut update = Tensor::zeros((rows.len(), out), x.dtype(), x.device())?;
            if let Some(delta) = part.and_then(|part| part.delta) {
                let x = x.narrow(0, rows.start, rows.len())?;
                let x = super::dropout(&x, Place::Site(self.site), pass.mode)?;
                update = (update + plain::delta(&x, delta)?)?;
            }
            match part.and_then(|part| part.bias) {
                Some(bias) => update.broadcast_add(bias),
                None => Ok(update),
            }
        });
        y + Tensor::cat(&updates.collect::<Result<Vec<_>>>()?, 0)?
    }
}

/// The parts in order, with the rows between them.
fn cover<'p, 'a>(parts: &'p [Part<'a>], tokens: usize) -> impl Iterator<Item = (Range<usize>, Option<&'p Part<'a>>)> {
    let mut end = 0;
    let mut pieces = Vec::new();
    for part in parts {
        pieces.push((end..part.rows.start, None));
        pieces.push((part.rows.clone(), Some(part)));
        end = part.rows.end;
    }
    pieces.push((end..tokens, None));
    pieces.into_iter().filter(|(rows, _)| !rows.is_empty())
}

/// `x·weight + bias`: (rows, in)·(in, out) + (out).
pub(super) fn affine(x: Mat<'_>, weight: Mat<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    let (rows, cols) = (x.rows(), weight.cols());
    let mut y;
    if let Some(bias) = bias {
        y = bias.repeat(rows);
        multiply_add(MatMut::new(&mut y, rows, cols), 1.0, x, weight);
    } else {
        y = vec![0.0; rows * cols];
        multiply(MatMut::new(&mut y, rows, cols), 1.0, x, weight);
    }
    y
}

/// `y += scale·x·Aᵀ·Bᵀ`
fn add_update(y: MatMut<'_>, x: Mat<'_>, a: Mat<'_>, b: Mat<'_>, scale: f32) {
    let narrow = affine(x, a.t(), None);
    multiply_add(y, scale, Mat::new(&narrow, x.rows(), a.rows()), b.t());
}

/// The base product alone.
#[derive(Clone)]
struct Base {
    /// Wᵀ, (in, out)
    weight: Tensor,
    /// (out)
    bias: Option<Tensor>,
    /// The weight as products read it.
    frozen: Arc<Frozen>,
}

impl Base {
    /// `gradient·W`
    fn pull(&self, gradient: Mat<'_>) -> Result<Vec<f32>> {
        let weight = floats(&self.weight)?;
        Ok(self.frozen.pull(gradient, weight.mat()?))
    }
}

impl Function<1> for Base {
    const NAME: &'static str = "frozen linear";

    fn forward(&self, [x]: [Mat<'_>; 1]) -> Result<(Vec<f32>, usize)> {
        let weight = floats(&self.weight)?;
        let bias = self.bias.as_ref().map(floats).transpose()?;
        Ok((self.frozen.multiply(x, weight.mat()?, bias.as_deref()), weight.mat()?.cols()))
    }

    fn backward(&self, _: [Mat<'_>; 1], gradient: Mat<'_>, _: [bool; 1]) -> Result<[Option<Vec<f32>>; 1]> {
        Ok([Some(self.pull(gradient)?)])
    }
}

/// `scale·dropout(x)·Aᵀ·Bᵀ` of x, A and B.
struct LowRank {
    scale: f32,
    dropout: Option<Dropout>,
}

impl LowRank {
    fn of(delta: &Delta, site: Site, pass: &Pass<'_>) -> Self {
        Self { scale: delta.scale as f32, dropout: Place::Site(site).dropout(pass.mode) }
    }

    /// Calls `then` with what A sees of x.
    fn dropped<R>(&self, x: Mat<'_>, then: impl FnOnce(Mat<'_>) -> R) -> R {
        let Some(dropout) = self.dropout else { return then(x) };
        let mut kept = x.to_vec();
        dropout.apply(&mut kept);
        then(Mat::new(&kept, x.rows(), x.cols()))
    }

    fn add(&self, y: &mut [f32], [x, a, b]: [Mat<'_>; 3]) {
        self.dropped(x, |x| add_update(MatMut::new(y, x.rows(), b.rows()), x, a, b, self.scale));
    }

    /// Adds what reaches x through A and B.
    fn add_gradient(&self, dx: &mut [f32], narrow: Mat<'_>, a: Mat<'_>) {
        let (rows, cols) = (narrow.rows(), a.cols());
        let Some(dropout) = self.dropout else {
            return multiply_add(MatMut::new(dx, rows, cols), 1.0, narrow, a);
        };
        let mut through = vec![0.0; rows * cols];
        multiply(MatMut::new(&mut through, rows, cols), 1.0, narrow, a);
        dropout.apply(&mut through);
        kernels::add(dx, &through);
    }

    /// With u = dropout(x)·Aᵀ and h = scale·gradient·B: dB = scale·gradientᵀ·u, dA = hᵀ·dropout(x), and h·A is added to `dx`.
    fn gradients(&self, [x, a, b]: [Mat<'_>; 3], gradient: Mat<'_>, mut dx: Option<Vec<f32>>) -> [Option<Vec<f32>>; 3] {
        let (tokens, rank) = (x.rows(), a.rows());
        let mut narrow = vec![0.0; tokens * rank];
        multiply(MatMut::new(&mut narrow, tokens, rank), self.scale, gradient, b);
        let narrow = Mat::new(&narrow, tokens, rank);
        let (mut da, mut db) = (vec![0.0; rank * a.cols()], vec![0.0; b.rows() * rank]);
        self.dropped(x, |x| {
            let u = affine(x, a.t(), None);
            multiply(MatMut::new(&mut da, rank, a.cols()), 1.0, narrow.t(), x);
            multiply(MatMut::new(&mut db, b.rows(), rank), self.scale, gradient.t(), Mat::new(&u, tokens, rank));
        });
        if let Some(dx) = &mut dx {
            self.add_gradient(dx, narrow, a);
        }
        [dx, Some(da), Some(db)]
    }
}

impl Function<3> for LowRank {
    const NAME: &'static str = "low-rank update";

    fn forward(&self, args: [Mat<'_>; 3]) -> Result<(Vec<f32>, usize)> {
        let (rows, cols) = (args[0].rows(), args[2].rows());
        let mut y = vec![0.0; rows * cols];
        self.add(&mut y, args);
        Ok((y, cols))
    }

    fn backward(
        &self,
        args: [Mat<'_>; 3],
        gradient: Mat<'_>,
        [wants_x, ..]: [bool; 3],
    ) -> Result<[Option<Vec<f32>>; 3]> {
        let dx = wants_x.then(|| vec![0.0; args[0].rows() * args[0].cols()]);
        Ok(self.gradients(args, gradient, dx))
    }
}

/// The base product with a low-rank update, of x, A and B.
struct Adapted {
    base: Base,
    update: LowRank,
}

impl Function<3> for Adapted {
    const NAME: &'static str = "adapted linear";

    fn forward(&self, args: [Mat<'_>; 3]) -> Result<(Vec<f32>, usize)> {
        let (mut y, cols) = self.base.forward([args[0]])?;
        self.update.add(&mut y, args);
        Ok((y, cols))
    }

    fn backward(
        &self,
        args: [Mat<'_>; 3],
        gradient: Mat<'_>,
        [wants_x, ..]: [bool; 3],
    ) -> Result<[Option<Vec<f32>>; 3]> {
        let dx = if wants_x { Some(self.base.pull(gradient)?) } else { None };
        Ok(self.update.gradients(args, gradient, dx))
    }
}
