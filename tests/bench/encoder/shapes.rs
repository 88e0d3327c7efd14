//! The encoder alone at fixed shapes and on a mixed stream, against the most the same core does with the kernel's tile.

use serde_json::{Value, json};
use trunkline::model::kernels::packed::{Kernel, multiply_tiles};
use trunkline::model::{Encoder, Packed};

use crate::measure::{Effort, alternate};
use crate::pass;
use crate::texts::Texts;

const BATCHES: [usize; 3] = [1, 8, 32];
const LENGTHS: [usize; 4] = [16, 64, 128, 256];
const MIXED_TOKENS: usize = 2048;
/// Some tenths of a millisecond, so that the tile's start is no part of it.
const TILES: usize = 1000;

pub(crate) fn run(encoder: &Encoder, kernel: Kernel, texts: &Texts, quick: bool, effort: Effort) -> Vec<Value> {
    println!(
        "{:>7} {:>14} {:>10} {:>12} {:>10} {:>9} {:>9} {:>6}",
        "threads", "batch x length", "ms", "sequences/s", "tokens/s", "GFLOP/s", "tile's", "share"
    );
    let mut rows = Vec::new();
    for threads in [1, 2] {
        for (name, packed) in cases(texts, quick) {
            rows.push(measure(encoder, kernel, &name, &packed, threads, effort));
        }
    }
    rows
}

fn cases(texts: &Texts, quick: bool) -> Vec<(String, Packed)> {
    let wanted = |batch: usize, length: usize| !quick || batch * length <= 1024;
    let of_batch = |batch: usize| LENGTHS.map(|length| (batch, length));
    let shapes = BATCHES.into_iter().flat_map(of_batch).filter(|&(batch, length)| wanted(batch, length));
    let mut cases: Vec<_> =
        shapes.map(|(batch, length)| (format!("{batch} x {length}"), texts.shape(batch, length))).collect();
    cases.push((format!("{MIXED_TOKENS} mixed"), texts.mixed(MIXED_TOKENS)));
    cases
}

fn measure(encoder: &Encoder, kernel: Kernel, name: &str, packed: &Packed, threads: usize, effort: Effort) -> Value {
    let tiles = || {
        multiply_tiles(kernel, TILES);
    };
    let times = alternate(&[&|| pass(encoder, packed), &tiles], threads, effort);
    let (pass_flop, tiles_flop) = (flop(encoder, packed), multiply_tiles(kernel, TILES) as f64);
    let seconds = times.median(0);
    let per_second = |what: f64| threads as f64 * what / seconds;
    let (sequences, tokens) = (per_second(packed.sequences() as f64), per_second(packed.tokens() as f64));
    let (flops, peak) = (per_second(pass_flop), threads as f64 * tiles_flop / times.median(1));
    let share = pass_flop / tiles_flop / times.ratio(0, 1);
    println!(
        "{threads:>7} {name:>14} {:>10.3} {sequences:>12.1} {tokens:>10.0} {:>9.1} {:>9.1} {:>5.1}%",
        seconds * 1e3,
        flops / 1e9,
        peak / 1e9,
        share * 100.0
    );
    json!({"kernel": kernel.name(), "threads": threads, "shape": name, "seconds": seconds, "sequences_per_s": sequences,
        "tokens_per_s": tokens, "flop_per_s": flops, "tile_flop_per_s": peak, "share": share})
}

/// Of the layers: the linears for each token, then scores and mixing of attention, which see every pair of a sequence's tokens.
fn flop(encoder: &Encoder, packed: &Packed) -> f64 {
    let weights = encoder.sites().into_iter().map(|site| encoder.site_shape(site)).map(|(out, width)| out * width);
    let linears = 2 * packed.tokens() * weights.sum::<usize>();
    let pairs: usize = packed.bounds.windows(2).map(|sequence| (sequence[1] - sequence[0]).pow(2)).sum();
    (linears + 4 * encoder.config().hidden_size * encoder.config().layers * pairs) as f64
}
