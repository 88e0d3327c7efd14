//! One forward pass, one thread: the thread pools of the libraries below us stay empty. And a thread's priority.
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

/// Keeps large blocks in the process's heap instead of giving each back to the system and asking again: a pass allocates and
/// frees megabytes many times a second, and every fresh page costs a fault. [`give_back_memory`] returns what is unused.
pub fn keep_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets two numbers of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * LARGE_BYTES);
    }
}

/// Blocks up to this many bytes come from the heap; the allocator takes no larger bound.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BYTES: libc::c_int = 32 << 20;

/// Returns the heap's unused pages to the system: after work that needed much more than what follows.
pub fn give_back_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the allocator's own function, for any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lowers the calling thread's priority to `niceness` (0 to 19), never raises it. Linux counts niceness by thread; elsewhere
/// nothing happens. A system that refuses costs fairness, not correctness.
pub fn lower_priority(niceness: i32) {
    #[cfg(target_os = "linux")]
    // SAFETY: both calls take and return numbers and touch no memory of ours.
    unsafe {
        if libc::getpriority(libc::PRIO_PROCESS, 0) < niceness {
            libc::setpriority(libc::PRIO_PROCESS, 0, niceness);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = niceness;
}

/// Whether this is the process's only thread. Where the system does not tell, the caller's word is taken.
fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").map_or(true, |threads| threads.count() == 1)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_the_calling_thread_gets_nicer() {
        // field 19 of the thread's line; the second, its name, may hold blanks but ends with the last parenthesis
        let niceness = || {
            let line = std::fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
            let fields = line.rsplit_once(')').map_or("", |(_, rest)| rest);
            fields.split_whitespace().nth(16).and_then(|field| field.parse::<i32>().ok())
        };
        let before = niceness();
        let lowered = std::thread::spawn(move || {
            lower_priority(19);
            niceness()
        });
        assert_eq!(lowered.join().ok().flatten(), Some(19));
        assert_eq!(niceness(), before);
    }
}
