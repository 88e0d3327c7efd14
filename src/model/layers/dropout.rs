//! Where dropout happens, and under which key: one seed gives every place its own mask.

use candle_core::{Result, Tensor};

use super::function::{Function, apply1};
use crate::model::kernels::{Dropout, Mat, mix};
use crate::model::{Mode, Site};

/// A place in the network where dropout happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// Before an adapter's A.
    Site(Site),
    /// Before the n-th dense layer of a head.
    Head(u64),
}

impl Place {
    /// None if there is nothing to drop.
    pub(super) fn dropout(self, mode: Mode) -> Option<Dropout> {
        let Mode::Train { dropout: rate, seed } = mode else { return None };
        let place = match self {
            Self::Site(site) => ((site.layer as u64) << 8) | site.linear as u64,
            Self::Head(layer) => u64::MAX - layer,
        };
        (rate > 0.0).then(|| Dropout { rate, key: mix(mix(seed) ^ mix(place)) })
    }
}

/// `x` with some numbers zero and the others grown, in training.
pub(crate) fn dropout(x: &Tensor, place: Place, mode: Mode) -> Result<Tensor> {
    let Some(dropout) = place.dropout(mode) else { return Ok(x.clone()) };
    if x.device().is_cpu() {
        return apply1(Masked(dropout), &x.contiguous()?);
    }
    x * Tensor::from_vec(dropout.mask(x.elem_count()), x.shape(), x.device())?
}

struct Masked(Dropout);

impl Masked {
    fn apply(&self, x: Mat<'_>) -> Vec<f32> {
        let mut kept = x.to_vec();
        self.0.apply(&mut kept);
        kept
    }
}

impl Function<1> for Masked {
    const NAME: &'static str = "dropout";

    fn forward(&self, [x]: [Mat<'_>; 1]) -> Result<(Vec<f32>, usize)> {
        Ok((self.apply(x), x.cols()))
    }

    fn backward(&self, _: [Mat<'_>; 1], gradient: Mat<'_>, _: [bool; 1]) -> Result<[Option<Vec<f32>>; 1]> {
        Ok([Some(self.apply(gradient))])
    }
}
