//! One forward pass, one thread: the thread pools of the libraries below us stay empty.
#![allow(unsafe_code)]

/// Keeps candle's and rayon's pools at one thread, whatever the environment said. Parallelism is across batches.
///
/// # Panics
/// If another thread exists already: call it first in `main`.
pub fn single_threaded_pools() {
    assert!(is_single_threaded(), "single_threaded_pools comes first in main, before any thread");
    for variable in ["CANDLE_NUM_THREADS", "RAYON_NUM_THREADS"] {
        // SAFETY: the assertion above: no other thread exists that could read the environment meanwhile.
        unsafe { std::env::set_var(variable, "1") };
    }
}

/// Whether this is the process's only thread. Where the system does not tell, the caller's word is taken.
fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").map_or(true, |threads| threads.count() == 1)
}
