//! A differentiable function of matrices, written on slices: this file alone knows how candle stores tensors.

use std::ops::Deref;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Storage, Tensor, bail};

use crate::model::kernels::Mat;

/// A function of `N` matrices of f32 on the CPU.
pub(super) trait Function<const N: usize>: Send + Sync + 'static {
    const NAME: &'static str;

    /// The result's numbers, row after row, and its columns.
    fn forward(&self, args: [Mat<'_>; N]) -> Result<(Vec<f32>, usize)>;

    /// From the gradient of the result to those of the `wanted` arguments, in their shapes. What is not wanted may be
    /// left out; what is wanted may not.
    fn backward(&self, args: [Mat<'_>; N], gradient: Mat<'_>, wanted: [bool; N]) -> Result<[Option<Vec<f32>>; N]>;
}

/// `function(x)`, with its gradient.
pub(super) fn apply1<F: Function<1>>(function: F, x: &Tensor) -> Result<Tensor> {
    x.apply_op1(Op(function))
}

/// `function(x, y)`, with its gradients.
pub(super) fn apply2<F: Function<2>>(function: F, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    x.apply_op2(y, Op(function))
}

/// `function(x, y, z)`, with its gradients.
pub(super) fn apply3<F: Function<3>>(function: F, [x, y, z]: [&Tensor; 3]) -> Result<Tensor> {
    x.apply_op3(y, z, Op(function))
}

/// A CPU tensor of `data` in rows of `cols`.
pub(super) fn matrix(data: Vec<f32>, cols: usize) -> Result<Tensor> {
    let rows = data.len().checked_div(cols).unwrap_or(0);
    Tensor::from_vec(data, (rows, cols), &Device::Cpu)
}

/// The numbers of a CPU tensor, borrowed: `S` is candle's read lock.
pub(super) struct Floats<'a, S> {
    storage: S,
    layout: &'a Layout,
}

/// The numbers of `tensor`, which must be f32 on the CPU.
pub(super) fn floats(tensor: &Tensor) -> Result<Floats<'_, impl Deref<Target = Storage> + '_>> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(_)) => Ok(Floats { storage, layout }),
        _ => bail!("wanted f32 on the CPU, got {:?} on {:?}", tensor.dtype(), tensor.device()),
    }
}

impl<S: Deref<Target = Storage>> Floats<'_, S> {
    /// As a matrix; a vector is one row.
    pub(super) fn mat(&self) -> Result<Mat<'_>> {
        view(self.numbers(), self.layout)
    }

    fn numbers(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(numbers)) => numbers,
            _ => unreachable!("`floats` lets no other storage in"),
        }
    }
}

/// Row-major numbers.
///
/// # Panics
/// If the tensor is not contiguous; weights are.
impl<S: Deref<Target = Storage>> Deref for Floats<'_, S> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let (start, end) = self.layout.contiguous_offsets().expect("a contiguous tensor");
        &self.numbers()[start..end]
    }
}

fn view<'a>(numbers: &'a [f32], layout: &Layout) -> Result<Mat<'a>> {
    let numbers = &numbers[layout.start_offset()..];
    match (layout.dims(), layout.stride()) {
        ([cols], [1]) => Ok(Mat::new(numbers, 1, *cols)),
        ([rows, cols], [row_stride, 1]) if row_stride >= cols => Ok(Mat::strided(numbers, *rows, *cols, *row_stride)),
        ([rows, cols], _) if layout.is_contiguous() => Ok(Mat::new(numbers, *rows, *cols)),
        (dims, strides) => bail!("wanted a matrix with whole rows, got {dims:?} with strides {strides:?}"),
    }
}

fn stored<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<Mat<'a>> {
    view(storage.as_slice::<f32>()?, layout)
}

struct Op<F>(F);

impl<F> Op<F> {
    fn run<const N: usize>(&self, args: [Mat<'_>; N]) -> Result<(CpuStorage, Shape)>
    where
        F: Function<N>,
    {
        let (data, cols) = self.0.forward(args)?;
        let rows = data.len().checked_div(cols).unwrap_or(0);
        Ok((CpuStorage::F32(data), (rows, cols).into()))
    }

    /// Only what is tracked gets a gradient: candle would add up the others too.
    fn gradients<const N: usize>(&self, args: [&Tensor; N], gradient: &Tensor) -> Result<[Option<Tensor>; N]>
    where
        F: Function<N>,
    {
        let gradient = gradient.contiguous()?;
        let gradient = floats(&gradient)?;
        let numbers = try_map(args, floats)?;
        let mats = try_map(numbers.each_ref(), |numbers| numbers.mat())?;
        let gradients = self.0.backward(mats, gradient.mat()?, args.map(Tensor::track_op))?;
        let mut shapes = args.iter().map(|arg| (arg.track_op(), arg.shape().clone()));
        try_map(gradients, |data| match (data, shapes.next()) {
            (Some(data), Some((true, shape))) => Ok(Some(Tensor::from_vec(data, shape, &Device::Cpu)?)),
            _ => Ok(None),
        })
    }
}

fn try_map<T, U, const N: usize>(items: [T; N], f: impl FnMut(T) -> Result<U>) -> Result<[U; N]> {
    let mapped: Vec<U> = items.into_iter().map(f).collect::<Result<_>>()?;
    Ok(mapped.try_into().unwrap_or_else(|_| unreachable!("as many as there were")))
}

impl<F: Function<1>> CustomOp1 for Op<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run([stored(s, l)?])
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let [dx] = self.gradients([x], gradient)?;
        Ok(dx)
    }
}

impl<F: Function<2>> CustomOp2 for Op<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run([stored(s1, l1)?, stored(s2, l2)?])
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dy] = self.gradients([x, y], gradient)?;
        Ok((dx, dy))
    }
}

type Three = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl<F: Function<3>> CustomOp3 for Op<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run([stored(s1, l1)?, stored(s2, l2)?, stored(s3, l3)?])
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, z: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Three> {
        let [dx, dy, dz] = self.gradients([x, y, z], gradient)?;
        Ok((dx, dy, dz))
    }
}
