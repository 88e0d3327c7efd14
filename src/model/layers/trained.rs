//! Weights of the encoder that training changes: all of them in one vector, which an optimizer updates in place, and the linears
//! and norms that read it. Their gradients go to a [`Sink`] as they arise: as variables each would be made, zeroed and added
//! once more, a pass over all weights each time.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use candle_core::{Result, Tensor};

use super::function::{Function, apply1, apply2, floats};
use crate::model::kernels::packed::{Frozen, Kernel};
use crate::model::kernels::{self, Mat, MatMut, NormWeights, multiply_add};

/// All trained weights of an encoder, end to end.
pub(crate) struct Master {
    numbers: RwLock<Vec<f32>>,
    slots: RwLock<Vec<Slot>>,
    kernel: Kernel,
}

/// One tensor among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// As the checkpoint calls it, below its prefix.
    pub name: String,
    pub range: Range<usize>,
    pub shape: Vec<usize>,
}

/// Where the gradient of all trained weights is summed, in the order of the [`Master`]; one a thread.
pub struct Sink(Mutex<Vec<f32>>);

impl Sink {
    /// Zeros for `len` weights.
    pub fn new(len: usize) -> Self {
        Self(Mutex::new(vec![0.0; len]))
    }

    pub fn numbers(&self) -> MutexGuard<'_, Vec<f32>> {
        // whoever panicked while adding has failed the step; what is here is cleared before the next
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Master {
    pub(crate) fn new(kernel: Kernel) -> Self {
        Self { numbers: RwLock::default(), slots: RwLock::default(), kernel }
    }

    /// Takes in a tensor.
    pub(crate) fn push(&self, name: String, tensor: &Tensor) -> Result<Range<usize>> {
        let mut numbers = self.numbers.write().unwrap_or_else(PoisonError::into_inner);
        let start = numbers.len();
        numbers.extend_from_slice(&floats(&tensor.contiguous()?)?);
        let range = start..numbers.len();
        let slot = Slot { name, range: range.clone(), shape: tensor.dims().to_vec() };
        self.slots.write().unwrap_or_else(PoisonError::into_inner).push(slot);
        Ok(range)
    }

    /// The tensors, in order.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn numbers(&self) -> RwLockReadGuard<'_, Vec<f32>> {
        self.numbers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To change them; the linears must then be [refreshed](TrainedLinear::refresh).
    pub(crate) fn numbers_mut(&self) -> RwLockWriteGuard<'_, Vec<f32>> {
        self.numbers.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `x·Wᵀ + b` with weights that training changes.
#[derive(Clone)]
pub(crate) struct TrainedLinear {
    master: Arc<Master>,
    /// (out, in)
    weight: Range<usize>,
    bias: Option<Range<usize>>,
    pub(super) out: usize,
    pub(super) width: usize,
    /// The weight as products read it, until it changes.
    packed: Arc<RwLock<Arc<Frozen>>>,
}

impl TrainedLinear {
    /// `weight` is (out, in).
    pub(crate) fn new(master: &Arc<Master>, path: &str, weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let (out, width) = weight.dims2()?;
        Ok(Self {
            master: master.clone(),
            weight: master.push(format!("{path}.weight"), weight)?,
            bias: bias.map(|bias| master.push(format!("{path}.bias"), bias)).transpose()?,
            out,
            width,
            packed: Arc::new(RwLock::new(Arc::new(Frozen::new(master.kernel)))),
        })
    }

    /// (tokens, in) to (tokens, out); `x` must be tracked if gradients are wanted, which then go to `sink`.
    pub(super) fn forward(&self, x: &Tensor, sink: Option<&Arc<Sink>>) -> Result<Tensor> {
        let packed = self.packed.read().unwrap_or_else(PoisonError::into_inner).clone();
        apply1(LinearOp { linear: self.clone(), packed, sink: sink.cloned() }, x)
    }

    /// To be called when the weights have changed.
    pub(crate) fn refresh(&self) {
        *self.packed.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Frozen::new(self.master.kernel));
    }
}

/// One use of a linear, with the weights it had then.
struct LinearOp {
    linear: TrainedLinear,
    packed: Arc<Frozen>,
    sink: Option<Arc<Sink>>,
}

impl LinearOp {
    /// Wᵀ, (in, out).
    fn transposed<'a>(&self, numbers: &'a [f32]) -> Mat<'a> {
        Mat::new(&numbers[self.linear.weight.clone()], self.linear.out, self.linear.width).t()
    }
}

impl Function<1> for LinearOp {
    const NAME: &'static str = "trained linear";

    fn forward(&self, [x]: [Mat<'_>; 1]) -> Result<(Vec<f32>, usize)> {
        let numbers = self.linear.master.numbers();
        let bias = self.linear.bias.clone().map(|bias| &numbers[bias]);
        Ok((self.packed.multiply(x, self.transposed(&numbers), bias), self.linear.out))
    }

    /// dW += gradientᵀ·x, db += Σ gradient, dx = gradient·W.
    fn backward(&self, [x]: [Mat<'_>; 1], gradient: Mat<'_>, _: [bool; 1]) -> Result<[Option<Vec<f32>>; 1]> {
        let linear = &self.linear;
        if let Some(sink) = &self.sink {
            let mut sums = sink.numbers();
            multiply_add(MatMut::new(&mut sums[linear.weight.clone()], linear.out, linear.width), 1.0, gradient.t(), x);
            if let Some(bias) = &linear.bias {
                (0..gradient.rows()).for_each(|row| kernels::add(&mut sums[bias.clone()], gradient.row(row)));
            }
        }
        let numbers = linear.master.numbers();
        Ok([Some(self.packed.pull(gradient, self.transposed(&numbers)))])
    }
}

/// A layer norm with weights that training changes.
#[derive(Clone)]
pub(crate) struct TrainedNorm {
    master: Arc<Master>,
    gain: Range<usize>,
    bias: Option<Range<usize>>,
    eps: f64,
}

impl TrainedNorm {
    pub(crate) fn new(
        master: &Arc<Master>,
        path: &str,
        gain: &Tensor,
        bias: Option<&Tensor>,
        eps: f64,
    ) -> Result<Self> {
        let gain = master.push(format!("{path}.weight"), gain)?;
        let bias = bias.map(|bias| master.push(format!("{path}.bias"), bias)).transpose()?;
        Ok(Self { master: master.clone(), gain, bias, eps })
    }

    pub(super) fn forward(&self, x: &Tensor, sink: Option<&Arc<Sink>>) -> Result<Tensor> {
        apply1(NormOp { norm: self.clone(), sink: sink.cloned() }, x)
    }

    pub(super) fn of_sum(&self, x: &Tensor, residual: &Tensor, sink: Option<&Arc<Sink>>) -> Result<Tensor> {
        apply2(NormOp { norm: self.clone(), sink: sink.cloned() }, x, residual)
    }

    fn weights<R>(&self, then: impl FnOnce(NormWeights<'_>) -> R) -> R {
        let numbers = self.master.numbers();
        let bias = self.bias.clone().map(|bias| &numbers[bias]);
        then(NormWeights { gain: &numbers[self.gain.clone()], bias, eps: self.eps as f32 })
    }
}

/// One use of a norm.
struct NormOp {
    norm: TrainedNorm,
    sink: Option<Arc<Sink>>,
}

impl NormOp {
    fn forward_rows(&self, mut sums: Vec<f32>, cols: usize) -> (Vec<f32>, usize) {
        self.norm.weights(|weights| kernels::layer_norm(&mut sums, None, weights));
        (sums, cols)
    }

    fn backward_rows(&self, sums: &[f32], gradient: Mat<'_>) -> Vec<f32> {
        if let Some(sink) = &self.sink {
            self.add_weight_gradients(&mut sink.numbers(), sums, gradient);
        }
        let mut gradient = gradient.to_vec();
        self.norm.weights(|weights| kernels::layer_norm_backward(&mut gradient, sums, weights));
        gradient
    }

    /// dgain += Σ gradient·normal, dbias += Σ gradient.
    fn add_weight_gradients(&self, sink: &mut [f32], sums: &[f32], gradient: Mat<'_>) {
        let ones = vec![1.0; gradient.cols()];
        let mut normal = sums.to_vec();
        kernels::layer_norm(&mut normal, None, NormWeights { gain: &ones, bias: None, eps: self.norm.eps as f32 });
        for (i, normal) in normal.chunks_exact_mut(gradient.cols()).enumerate() {
            kernels::scale(normal, gradient.row(i));
            kernels::add(&mut sink[self.norm.gain.clone()], normal);
            if let Some(bias) = &self.norm.bias {
                kernels::add(&mut sink[bias.clone()], gradient.row(i));
            }
        }
    }
}

impl Function<1> for NormOp {
    const NAME: &'static str = "trained layer norm";

    fn forward(&self, [x]: [Mat<'_>; 1]) -> Result<(Vec<f32>, usize)> {
        Ok(self.forward_rows(x.to_vec(), x.cols()))
    }

    fn backward(&self, [x]: [Mat<'_>; 1], gradient: Mat<'_>, _: [bool; 1]) -> Result<[Option<Vec<f32>>; 1]> {
        Ok([Some(self.backward_rows(&x.to_vec(), gradient))])
    }
}

impl Function<2> for NormOp {
    const NAME: &'static str = "trained layer norm of a sum";

    fn forward(&self, [x, y]: [Mat<'_>; 2]) -> Result<(Vec<f32>, usize)> {
        Ok(self.forward_rows(sums(x, y), x.cols()))
    }

    fn backward(&self, [x, y]: [Mat<'_>; 2], gradient: Mat<'_>, wanted: [bool; 2]) -> Result<[Option<Vec<f32>>; 2]> {
        let gradient = self.backward_rows(&sums(x, y), gradient);
        Ok(match wanted {
            [true, true] => [Some(gradient.clone()), Some(gradient)],
            [true, false] => [Some(gradient), None],
            _ => [None, Some(gradient)],
        })
    }
}

fn sums(x: Mat<'_>, y: Mat<'_>) -> Vec<f32> {
    let mut sums = x.to_vec();
    kernels::add(&mut sums, &y.to_vec());
    sums
}
