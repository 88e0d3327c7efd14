//! The innermost products, one file for each instruction set: some rows times one panel.
#![allow(unsafe_code)]

mod amx;
mod avx2;
mod avx512;
mod avx512_bf16;
mod portable;

pub use amx::Amx;
pub use avx2::Avx2;
pub use avx512::Avx512;
pub use avx512_bf16::Avx512Bf16;
pub use portable::Portable;

use super::Number;

/// One instruction set. Only a kernel that the machine has may run: [`super::Kernel::dispatch`] sees to it.
pub trait Isa: Copy + Send + Sync + 'static {
    type Number: Number;
    /// Columns of one vector of sums.
    const LANES: usize;
    /// Vectors of a whole panel; the last panel of a matrix may have fewer.
    const VECTORS: usize;
    /// Rows of a tile at most.
    const ROWS: usize;

    fn is_available() -> bool;

    /// `out (+)= a·panel`: `rows` × `vectors · LANES` sums over `depth`.
    ///
    /// # Safety
    /// The machine has the instructions; 1 ≤ `rows` ≤ [`Self::ROWS`], 1 ≤ `vectors` ≤ [`Self::VECTORS`], `depth` is a
    /// multiple of the number's pair; and memory holds `rows` × `depth` numbers at `a` (rows `stride` apart), for each depth
    /// (bf16: each two) `vectors · LANES` columns at `panel` (`wide` columns apart), and `rows` × `vectors · LANES` at `out`
    /// (rows `out_stride` apart).
    unsafe fn tile(args: TileArgs<Self::Number>);

    /// Rounds `rows` × `cols` numbers; both slices hold them.
    fn narrow(to: &mut [Self::Number], to_stride: usize, from: &[f32], from_stride: usize, rows: usize, cols: usize);
}

/// What a tile reads and writes, in numbers; see [`Isa::tile`].
#[derive(Clone, Copy, Debug)]
pub struct TileArgs<N> {
    pub rows: usize,
    pub vectors: usize,
    pub a: *const N,
    pub stride: usize,
    pub panel: *const N,
    /// Columns from one depth of the panel to the next; of a narrow panel fewer than are read.
    pub wide: usize,
    pub depth: usize,
    pub out: *mut f32,
    pub out_stride: usize,
    /// Whether the sums are added to what is there.
    pub adds: bool,
}

/// Calls `$tile::<ROWS, VECTORS>` for the numbers of rows and vectors at run time.
macro_rules! by_shape {
    ($tile:ident, $args:expr, [$($rows:literal)*] x $vectors:tt) => {
        match $args.rows {
            $($rows => super::by_shape!(@ $tile, $args, $rows, $vectors),)*
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
    (@ $tile:ident, $args:expr, $rows:literal, [$($vectors:literal)*]) => {
        match $args.vectors {
            $($vectors => $tile::<$rows, $vectors>($args),)*
            vectors => unreachable!("a tile of {vectors} vectors"),
        }
    };
}
pub(super) use by_shape;
