//! AMX: `tdpbf16ps` multiplies 16 × 32 by 32 × 16 bf16 numbers into a tile register of 16 × 16 f32 sums. Two row tiles by two
//! column tiles are summed at once. What is left of a depth after whole tiles goes through AVX512-BF16, which every machine
//! with AMX has, on the same panels.
//!
//! AMX has no stable intrinsics: the instructions are inline assembly, and Linux must be asked for the registers first
//! (Documentation/arch/x86/xstate.rst). Before it is used it has to multiply a known matrix right on the machine it runs on.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use std::arch::asm;
use std::sync::OnceLock;

use half::bf16;

use super::{Avx512Bf16, Isa, Number, TileArgs};

#[derive(Clone, Copy, Debug)]
pub struct Amx;

/// Depth that one instruction takes.
const STEP: usize = 32;

impl Isa for Amx {
    type Number = bf16;
    const LANES: usize = 16;
    const VECTORS: usize = 2;
    const ROWS: usize = 32;

    fn is_available() -> bool {
        static KNOWN: OnceLock<bool> = OnceLock::new();
        *KNOWN.get_or_init(|| Avx512Bf16::is_available() && is_permitted() && multiplies_right())
    }

    unsafe fn tile(args: TileArgs<bf16>) {
        let whole = args.depth - args.depth % STEP;
        if whole > 0 {
            // SAFETY: the caller's promise is the same, for a part of the depth.
            unsafe { tiles(TileArgs { depth: whole, ..args }) };
        }
        let rest = args.depth - whole;
        for first in (0..args.rows).step_by(Avx512Bf16::ROWS) {
            if rest == 0 {
                break;
            }
            // SAFETY: within the rows and depths that the caller promised; the panel's numbers of depth `whole` begin there.
            unsafe {
                Avx512Bf16::tile(TileArgs {
                    rows: (args.rows - first).min(Avx512Bf16::ROWS),
                    a: args.a.add(first * args.stride + whole),
                    panel: args.panel.add(whole * args.wide),
                    depth: rest,
                    out: args.out.add(first * args.out_stride),
                    adds: args.adds || whole > 0,
                    ..args
                });
            }
        }
    }

    fn narrow(to: &mut [bf16], to_stride: usize, from: &[f32], from_stride: usize, rows: usize, cols: usize) {
        Avx512Bf16::narrow(to, to_stride, from, from_stride, rows, cols);
    }
}

/// Whether a product over odd rows and depths, with and without earlier sums, has the numbers it should.
fn multiplies_right() -> bool {
    [(1, 1, 32), (16, 2, 64), (17, 2, 70), (32, 2, 96), (31, 1, 34)].into_iter().all(|(rows, vectors, depth)| {
        let number = |i: usize| bf16::from_f32((i % 13) as f32 - 6.0);
        let cols = vectors * Amx::LANES;
        let a: Vec<bf16> = (0..rows * depth).map(number).collect();
        let panel: Vec<bf16> = (0..depth * cols).map(|i| number(i * 7)).collect();
        let mut out = vec![0.0f32; rows * cols];
        for adds in [false, true] {
            let args = TileArgs {
                rows,
                vectors,
                a: a.as_ptr(),
                stride: depth,
                panel: panel.as_ptr(),
                wide: cols,
                depth,
                out: out.as_mut_ptr(),
                out_stride: cols,
                adds,
            };
            // SAFETY: the buffers have these very sizes; the machine has the instructions and Linux gave the registers.
            unsafe { Amx::tile(args) };
        }
        // small whole numbers: every sum is exact
        let sum = |row: usize, col: usize| -> f32 {
            let at = |k: usize| panel[((k / 2) * cols + col) * 2 + k % 2].to_f32();
            2.0 * (0..depth).map(|k| a[row * depth + k].to_f32() * at(k)).sum::<f32>()
        };
        (0..rows * cols).all(|at| out[at] == sum(at / cols, at % cols))
    })
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn is_permitted() -> bool {
    false
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
unsafe fn tiles(_: TileArgs<bf16>) {
    unreachable!("only x86-64 has these instructions");
}

/// Whether the processor has AMX with bf16 and Linux lets this process use it. Asks for it.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
    let has = |bit: u32| features >> bit & 1 == 1;
    let (bf16, tiles) = (has(22), has(24));
    // SAFETY: the call takes two numbers and touches no memory of ours.
    bf16 && tiles && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

/// What the eight registers hold: sums 0 to 3, rows of `a` 4 and 5, the panel 6 and 7.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row.
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
impl Config {
    /// For `rows` rows of `a`, 1 to 32. A tile without rows is not allowed: one that is not used has one.
    fn new(rows: usize) -> Self {
        let (upper, lower) = (rows.min(16) as u8, rows.saturating_sub(16).max(1) as u8);
        let mut config = Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        config.row_bytes[..8].fill(64);
        config.rows[..8].copy_from_slice(&[upper, upper, lower, lower, upper, lower, 16, 16]);
        config
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
thread_local! {
    /// The rows this thread's registers are set for; nothing else in the process sets them.
    static ROWS_SET: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// # Safety
/// As [`Isa::tile`]; `depth` is a multiple of [`STEP`] and not zero.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
unsafe fn tiles(args: TileArgs<bf16>) {
    if ROWS_SET.get() != args.rows {
        // SAFETY: a valid configuration of the only palette there is.
        unsafe { asm!("ldtilecfg [{config}]", config = in(reg) &Config::new(args.rows), options(nostack)) };
        ROWS_SET.set(args.rows);
    }
    // SAFETY: the caller's promise; the registers are set for so many rows.
    unsafe {
        match (args.rows > 16, args.vectors) {
            (true, 2) => two_by_two(args),
            (true, _) => two_by_one(args),
            (false, 2) => one_by_two(args),
            (false, _) => one_by_one(args),
        }
    }
}

/// Addresses and strides in bytes, as the loops want them.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
struct Walk {
    a: *const u8,
    a_stride: usize,
    b: *const u8,
    b_stride: usize,
    out: *mut u8,
    out_stride: usize,
    steps: usize,
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
impl Walk {
    fn new(args: &TileArgs<bf16>) -> Self {
        Self {
            a: args.a.cast(),
            a_stride: args.stride * size_of::<bf16>(),
            b: args.panel.cast(),
            b_stride: args.wide * bf16::PAIR * size_of::<bf16>(),
            out: args.out.cast(),
            out_stride: args.out_stride * size_of::<f32>(),
            steps: args.depth / STEP,
        }
    }
}

/// One function for each shape of a block. `$load` and `$store` name the sums and where they are, `$step` is one instruction's
/// depth: 64 bytes further in `a`, 16 pairs further in the panel.
macro_rules! block {
    ($name:ident, zero: [$($zero:literal),*], load: [$($load:literal),*], step: [$($step:literal),*], store: [$($store:literal),*]) => {
        /// # Safety
        /// As [`tiles`], for rows and vectors of this block.
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        unsafe fn $name(args: TileArgs<bf16>) {
            let walk = Walk::new(&args);
            // SAFETY: whole tiles within what the caller promised; the second row tile begins 16 rows further.
            unsafe {
                asm!(
                    "test {adds}, {adds}",
                    "jnz 3f",
                    $($zero,)*
                    "jmp 2f",
                    "3:",
                    $($load,)*
                    "2:",
                    $($step,)*
                    "add {a0}, 64",
                    "add {a1}, 64",
                    "add {b}, {b_step}",
                    "dec {steps}",
                    "jnz 2b",
                    $($store,)*
                    adds = in(reg) usize::from(args.adds),
                    a0 = inout(reg) walk.a => _,
                    a1 = inout(reg) walk.a.wrapping_add(16 * walk.a_stride) => _,
                    a_stride = in(reg) walk.a_stride,
                    b = inout(reg) walk.b => _,
                    b_stride = in(reg) walk.b_stride,
                    b_step = in(reg) 16 * walk.b_stride,
                    out0 = in(reg) walk.out,
                    out1 = in(reg) walk.out.wrapping_add(16 * walk.out_stride),
                    out_stride = in(reg) walk.out_stride,
                    steps = inout(reg) walk.steps => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack)
                );
            }
        }
    };
}

block!(two_by_two,
zero: ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"],
load: [
    "tileloadd tmm0, [{out0} + {out_stride}*1]", "tileloadd tmm1, [{out0} + {out_stride}*1 + 64]",
    "tileloadd tmm2, [{out1} + {out_stride}*1]", "tileloadd tmm3, [{out1} + {out_stride}*1 + 64]"
],
step: [
    "tileloadd tmm4, [{a0} + {a_stride}*1]", "tileloadd tmm6, [{b} + {b_stride}*1]",
    "tileloadd tmm7, [{b} + {b_stride}*1 + 64]", "tileloadd tmm5, [{a1} + {a_stride}*1]",
    "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
    "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7"
],
store: [
    "tilestored [{out0} + {out_stride}*1], tmm0", "tilestored [{out0} + {out_stride}*1 + 64], tmm1",
    "tilestored [{out1} + {out_stride}*1], tmm2", "tilestored [{out1} + {out_stride}*1 + 64], tmm3"
]);

block!(two_by_one,
    zero: ["tilezero tmm0", "tilezero tmm2"],
    load: ["tileloadd tmm0, [{out0} + {out_stride}*1]", "tileloadd tmm2, [{out1} + {out_stride}*1]"],
    step: [
        "tileloadd tmm4, [{a0} + {a_stride}*1]", "tileloadd tmm6, [{b} + {b_stride}*1]",
        "tileloadd tmm5, [{a1} + {a_stride}*1]",
        "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm2, tmm5, tmm6"
    ],
    store: ["tilestored [{out0} + {out_stride}*1], tmm0", "tilestored [{out1} + {out_stride}*1], tmm2"]);

block!(one_by_two,
    zero: ["tilezero tmm0", "tilezero tmm1"],
    load: ["tileloadd tmm0, [{out0} + {out_stride}*1]", "tileloadd tmm1, [{out0} + {out_stride}*1 + 64]"],
    step: [
        "tileloadd tmm4, [{a0} + {a_stride}*1]", "tileloadd tmm6, [{b} + {b_stride}*1]",
        "tileloadd tmm7, [{b} + {b_stride}*1 + 64]",
        "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
        "/* {out1} */"
    ],
    store: ["tilestored [{out0} + {out_stride}*1], tmm0", "tilestored [{out0} + {out_stride}*1 + 64], tmm1"]);

block!(one_by_one,
    zero: ["tilezero tmm0"],
    load: ["tileloadd tmm0, [{out0} + {out_stride}*1]"],
    step: [
        "tileloadd tmm4, [{a0} + {a_stride}*1]", "tileloadd tmm6, [{b} + {b_stride}*1]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "/* {out1} */"
    ],
    store: ["tilestored [{out0} + {out_stride}*1], tmm0"]);
