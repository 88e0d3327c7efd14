//! Kernels and the encoder, without a server: `cargo bench --bench encoder [-- --quick] [--kernel NAME] [--json FILE] [--texts FILE]`.
//!
//! For each kernel of this machine: time, rate and FLOP/s of passes over the default backbone, and their share of what the
//! kernel's own tile reaches on data in the first-level cache, timed in turn with the passes. Then, with the fastest kernel,
//! what many adapters cost and what sharing a text's lower layers saves. Several threads make passes of their own, as the
//! engine does. Medians after a warm-up, sides in turn. `--worker` is for other programs, see `worker`.

mod adapters;
mod measure;
mod shapes;
mod texts;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use candle_core::{Device, Tensor};
use serde_json::json;
use trunkline::backbone::{BackboneCache, Sources};
use trunkline::model::kernels::packed::Kernel;
use trunkline::model::kernels::single_threaded_pools;
use trunkline::model::{Encoder, Mode, Packed, SegmentAdapters};

use measure::Effort;
use texts::Texts;

fn main() {
    single_threaded_pools();
    let folder = backbone();
    let texts = Texts::read(&folder, argument("--texts").map(PathBuf::from).as_deref());
    let kernels = kernels();
    if flag("--worker") {
        let served = worker::serve(&load(&folder, kernels[0]), &texts);
        return served.expect("requests can be read and answered");
    }
    let quick = flag("--quick");
    let effort =
        Effort { blocks: if quick { 3 } else { 11 }, block: Duration::from_millis(if quick { 5 } else { 25 }) };
    println!("{}; shares are of the kernel's tile on data in the first-level cache, in the same run", machine());
    let mut rows = Vec::new();
    for &kernel in &kernels {
        println!("\n{}", kernel.name());
        rows.extend(shapes::run(&load(&folder, kernel), kernel, &texts, quick, effort));
    }
    println!("\nadapters, {}", kernels[0].name());
    let adapters = adapters::run(&Arc::new(load(&folder, kernels[0])), &texts, effort);
    if let Some(file) = argument("--json") {
        let report = json!({"machine": machine(), "shapes": rows, "adapters": adapters});
        std::fs::write(&file, format!("{report:#}\n")).expect("the report can be written");
    }
}

/// Hidden states of the last layer, (tokens, hidden), without adapters.
fn states(encoder: &Encoder, packed: &Packed) -> Tensor {
    let layers = 0..encoder.config().layers;
    let hidden = encoder.embed(packed).expect("embeddings");
    let none = SegmentAdapters::default();
    encoder.forward(&hidden, &packed.bounds, &none, layers, Mode::Eval).expect("hidden states")
}

fn pass(encoder: &Encoder, packed: &Packed) {
    std::hint::black_box(states(encoder, packed));
}

fn load(folder: &Path, kernel: Kernel) -> Encoder {
    Encoder::load_for(folder, &Device::Cpu, kernel).expect("the default backbone")
}

/// The one asked for, or all of this machine, the fastest first.
fn kernels() -> Vec<Kernel> {
    let name = argument("--kernel");
    let wanted = |kernel: &Kernel| name.as_deref().is_none_or(|name| name == kernel.name()) && kernel.is_available();
    let kernels: Vec<Kernel> = Kernel::ALL.into_iter().filter(wanted).collect();
    assert!(!kernels.is_empty(), "this machine has no kernel {name:?}; there are {:?}", Kernel::ALL.map(Kernel::name));
    kernels
}

/// The verified default backbone; fetched if it is not in the cache.
fn backbone() -> PathBuf {
    #[allow(clippy::disallowed_methods)] // a bench has no configuration of its own
    let env = |name: &str| std::env::var(name).ok();
    let root = BackboneCache::default_root(env).expect("a home folder");
    let cache = BackboneCache::new(root).with_sources(Sources::from_env(env));
    cache.resolve("default", &mut |_, _, _| {}).expect("the default backbone").folder
}

fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{} ({cores} cores)", model.map_or("unknown CPU", |(_, model)| model))
}

fn flag(name: &str) -> bool {
    std::env::args().any(|argument| argument == name)
}

/// The one after `name`.
fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}
