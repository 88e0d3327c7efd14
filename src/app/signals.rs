//! The signals that end the process, heard from its first moment on.
//!
//! The kernel drops a signal to PID 1 that has no handler, and a container sends its stop once: a server that only listens when it
//! serves loses a stop that comes while it fetches, verifies or loads. So the handlers stand before anything else is done. Until the
//! server takes them over there is nothing to drain, and a signal ends the process on the spot.

use std::ffi::OsString;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

use crate::domain::{Error, Result};

const HANG_UP: Kind = Kind { name: "SIGHUP", number: 1 };
const INTERRUPT: Kind = Kind { name: "SIGINT", number: 2 };
const TERMINATE: Kind = Kind { name: "SIGTERM", number: 15 };

/// A signal, as POSIX names and numbers it.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    number: u8,
}

impl Kind {
    fn listen(self) -> Result<Signal> {
        Ok(signal(SignalKind::from_raw(self.number.into()))?)
    }
}

/// One stream a signal; dropping it leaves the handler in place.
struct Ears {
    hang_up: Option<Signal>,
    interrupt: Signal,
    terminate: Signal,
}

impl Ears {
    /// Needs a runtime around it.
    fn open() -> Result<Self> {
        // `nohup` starts its command with SIGHUP ignored, so that it outlives the terminal.
        let hang_up = if is_ignored(HANG_UP) { None } else { Some(HANG_UP.listen()?) };
        Ok(Self { hang_up, interrupt: INTERRUPT.listen()?, terminate: TERMINATE.listen()? })
    }

    async fn next(&mut self) -> Kind {
        let hang_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => TERMINATE,
            _ = self.interrupt.recv() => INTERRUPT,
            _ = hang_up => HANG_UP,
        }
    }
}

/// Whether the process was started with this signal ignored. Where there is no `/proc` it was not.
fn is_ignored(kind: Kind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (kind.number - 1) & 1 == 1
}

/// Returns at SIGTERM, SIGINT or SIGHUP. For commands that end by themselves; a server has [`Signals`].
pub(super) async fn signalled() -> Result<&'static str> {
    Ok(Ears::open()?.next().await.name)
}

/// What a signal does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Of a server that accepted nothing yet: a stop was asked for, and it is done.
    Starting,
    /// Of any other command: what the signal does without a handler.
    Command,
    /// The server hears of it and drains.
    Serving,
}

/// The process's ears for SIGTERM, SIGINT and SIGHUP.
pub struct Signals {
    runtime: Runtime,
    ears: Ears,
}

impl Signals {
    /// For the first line of `main`, and only for `trunkline serve`: other commands are ended by a signal as every process is.
    /// The handlers stand when this returns; no thread is started yet.
    pub fn for_server(arguments: impl IntoIterator<Item = OsString>) -> Option<Self> {
        // A word `serve` elsewhere in the line is found out when the line is read.
        let may_serve = arguments.into_iter().skip(1).any(|argument| argument == "serve");
        may_serve.then(Self::open).and_then(Result::ok)
    }

    fn open() -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let ears = {
            let _inside = runtime.enter();
            Ears::open()?
        };
        Ok(Self { runtime, ears })
    }

    /// Hears on a thread of its own from here on.
    pub(super) fn hear(self) -> Result<Heard> {
        let heard = Heard { phase: Arc::new(Mutex::new(Phase::Starting)), signal: watch::Sender::new(None) };
        let (teller, Self { runtime, mut ears }) = (heard.clone(), self);
        let listen = move || {
            runtime.block_on(async move {
                loop {
                    teller.tell(ears.next().await)
                }
            })
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(listen)?;
        Ok(heard)
    }
}

/// What came of the signals so far.
#[derive(Clone)]
pub(super) struct Heard {
    phase: Arc<Mutex<Phase>>,
    signal: watch::Sender<Option<&'static str>>,
}

impl Heard {
    /// For a server whose `main` did not listen yet.
    pub(super) fn from_now_on() -> Result<Self> {
        Signals::open()?.hear()
    }

    /// This is no server after all.
    pub(super) fn leave_to_default(&self) {
        *self.phase() = Phase::Command;
    }

    /// From here on a signal is something to drain for. None is lost in between: until this returns it ends the process.
    pub(super) fn take_over(&self) -> Stop {
        *self.phase() = Phase::Serving;
        Stop(self.signal.subscribe())
    }

    fn tell(&self, kind: Kind) {
        let phase = self.phase();
        match *phase {
            Phase::Starting => {
                info!(signal = kind.name, "stopped before it served anything");
                std::process::exit(0)
            }
            // As a shell has it for a command that a signal ended.
            Phase::Command => std::process::exit(128 + i32::from(kind.number)),
            Phase::Serving => {
                self.signal.send_if_modified(|first| first.is_none() && first.replace(kind.name).is_none());
            }
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().expect("no holder panics")
    }
}

/// The signal that ends the serving.
pub(super) struct Stop(watch::Receiver<Option<&'static str>>);

impl Stop {
    /// Returns at the first signal, or at once if it came already.
    pub(super) async fn signalled(mut self) -> Result<&'static str> {
        let signal = self.0.wait_for(Option::is_some).await.map(|signal| *signal);
        signal.ok().flatten().ok_or_else(|| Error::internal("nobody hears signals any more"))
    }
}
