//! Products with weights packed once: what serving runs. The weights of a linear lie in *panels*, in the order in which the
//! widest registers of the machine read them; tokens are packed end to end; bias, activation, residual sum and every
//! adapter's low-rank update are done while a strip of the result is still in the first-level cache.
//!
//! [`Kernel`] says which instructions run. `tile` has one file each; all else is written once, for every kernel.

mod attention;
mod frozen;
mod narrow;
mod panels;
mod peak;
mod product;
mod tile;

pub use attention::{Heads, attention};
pub use frozen::Frozen;
pub use narrow::round;
pub use panels::{Number, Panels};
pub use peak::multiply_tiles;
pub use product::{Finish, LowRank, Operand, Update, product};
pub use tile::{Amx, Avx2, Avx512, Avx512Bf16, Isa, Portable};

/// The instructions that multiply; each has a name for `backbone_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    AmxBf16,
    Avx512Bf16,
    Avx512,
    Avx2,
    Portable,
}

impl Kernel {
    /// The fastest first.
    pub const ALL: [Self; 5] = [Self::AmxBf16, Self::Avx512Bf16, Self::Avx512, Self::Avx2, Self::Portable];

    pub fn name(self) -> &'static str {
        match self {
            Self::AmxBf16 => "amx-bf16",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Avx512 => "avx512-f32",
            Self::Avx2 => "avx2-f32",
            Self::Portable => "portable-f32",
        }
    }

    /// Whether products take numbers of 16 bits (sums stay f32).
    pub fn is_bf16(self) -> bool {
        matches!(self, Self::AmxBf16 | Self::Avx512Bf16)
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        match self {
            Self::AmxBf16 => Amx::is_available(),
            Self::Avx512Bf16 => Avx512Bf16::is_available(),
            Self::Avx512 => Avx512::is_available(),
            Self::Avx2 => Avx2::is_available(),
            Self::Portable => true,
        }
    }

    /// The fastest this machine has, of f32 or of both precisions.
    pub fn best(allows_bf16: bool) -> Self {
        let fits = |kernel: &Self| kernel.is_available() && (allows_bf16 || !kernel.is_bf16());
        Self::ALL.into_iter().find(fits).unwrap_or(Self::Portable)
    }

    /// Calls `job` with this kernel's type.
    ///
    /// # Panics
    /// If the machine has no such instructions.
    pub fn dispatch<J: Job>(self, job: J) -> J::Output {
        assert!(self.is_available(), "this machine has no {}", self.name());
        match self {
            Self::AmxBf16 => job.run::<Amx>(),
            Self::Avx512Bf16 => job.run::<Avx512Bf16>(),
            Self::Avx512 => job.run::<Avx512>(),
            Self::Avx2 => job.run::<Avx2>(),
            Self::Portable => job.run::<Portable>(),
        }
    }
}

/// Work written once for all kernels.
pub trait Job {
    type Output;
    fn run<I: Isa>(self) -> Self::Output;
}
