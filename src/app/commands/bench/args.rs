//! The flags of `trunkline bench`, and what is refused before anything is sent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::app::commands::read_file;
use crate::app::commands::serve::key;
use crate::domain::{AdapterRef, Error, Family, Result};

use super::load::{Load, LoadSettings};
use super::report::SHAPE;
use super::texts::{self, Text};

/// Clients of a closed loop: what the field's own figures are taken with.
const CLIENTS: u16 = 8;
/// Clients that find the capacity: enough to fill the server's batches.
const CLIENTS_AT_CAPACITY: u16 = 32;
/// The longest stage, in seconds; what is kept of each request is kept in memory.
const SECONDS_MAX: f64 = 3600.0;
/// The largest file of texts, in bytes; all of it is kept in memory.
const TEXTS_BYTES_MAX: usize = 256 << 20;

#[derive(Debug, Args)]
#[command(after_help = SHAPE)]
pub(in crate::app) struct BenchArgs {
    /// The server, as http://HOST:PORT
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(super) url: String,
    /// Send load to another machine than this one; it is all the load that was asked for, so ask the server's owner first
    #[arg(long)]
    pub(super) allow_remote: bool,
    /// File with the key that inference routes demand (or TRUNKLINE_INFER_KEY)
    #[arg(long, value_name = "FILE")]
    infer_key_file: Option<PathBuf>,
    /// ner or classify
    #[arg(long, default_value = "classify")]
    pub(super) family: Family,
    /// Adapters, the most popular first [default: all of the family that the server lists]
    #[arg(long, value_delimiter = ',', value_name = "A,B,…")]
    pub(super) adapters: Vec<AdapterRef>,
    /// Popularity of adapters: the n-th is asked n^-Z times as often as the first; 0 is uniform
    #[arg(long, default_value = "1.0", value_name = "Z", allow_negative_numbers = true, value_parser = not_negative)]
    pub(super) zipf: f64,
    /// Texts: one a line, or JSON lines with "text" or "tokens" [default: sentences of common words]
    #[arg(long, value_name = "FILE")]
    pub(super) texts: Option<PathBuf>,
    /// Texts of exactly this many words, cut or joined from the texts [default: as they are]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) words: Option<u16>,
    /// Texts in each request
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    inputs_per_request: u16,
    /// Open loop: Poisson arrivals, in requests a second; a list is measured one after the other [default: closed loop]
    #[arg(long, value_delimiter = ',', value_name = "R,…", allow_negative_numbers = true, value_parser = positive, conflicts_with_all = ["load", "clients"])]
    pub(super) rate: Vec<f64>,
    /// Open loop at these shares of the capacity, which a closed loop measures first: 0.5,0.8,1.1
    #[arg(long, value_delimiter = ',', value_name = "SHARE,…", allow_negative_numbers = true, value_parser = positive)]
    pub(super) load: Vec<f64>,
    /// Closed loop: clients that each send when their last answer is there [default: 8; 32 with --load]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    clients: Option<u16>,
    /// Measured time of each load, in seconds
    #[arg(long, default_value = "10", value_name = "SECONDS", allow_negative_numbers = true, value_parser = positive)]
    seconds: f64,
    /// Time of each load before the measured one, in seconds
    #[arg(long, default_value = "2", value_name = "SECONDS", allow_negative_numbers = true, value_parser = not_negative)]
    warm_up: f64,
    /// Deadline of each request, sent along; answers after it are no goodput, in milliseconds [default: none]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX as u64 * 1000))]
    deadline_ms: Option<u64>,
    /// Connections open at once; a request that finds none free waits, and its wait counts
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) connections: u16,
    /// Seed of arrivals, adapters and texts
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(super) seed: u64,
    /// Write the report here, as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Draw the latency percentiles of each load here, as SVG
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
}

impl BenchArgs {
    /// What clap cannot see: values that contradict each other, and files that could not be written after a long run.
    pub(super) fn check(&self) -> Result<()> {
        if self.seconds + self.warm_up > SECONDS_MAX {
            let (seconds, warm_up) = (self.seconds, self.warm_up);
            return Err(Error::invalid(format!(
                "--seconds {seconds} and --warm-up {warm_up}: at most {SECONDS_MAX} together are wanted"
            )));
        }
        let clients = self.clients();
        let is_closed = self.rate.is_empty();
        if is_closed && clients > self.connections {
            return Err(Error::invalid(format!(
                "--clients {clients} is more than --connections {}: each client wants one of its own",
                self.connections
            )));
        }
        self.json.iter().chain(&self.svg).try_for_each(|path| check_writable(path))
    }

    pub(super) fn clients(&self) -> u16 {
        self.clients.unwrap_or(if self.load.is_empty() { CLIENTS } else { CLIENTS_AT_CAPACITY })
    }

    /// The loads that need no capacity to be known.
    pub(super) fn loads(&self) -> Vec<Load> {
        if self.rate.is_empty() {
            return vec![Load::Closed { clients: self.clients() }];
        }
        self.rate.iter().map(|&rate| Load::Open { rate, share: None }).collect()
    }

    pub(super) fn load_settings(&self) -> LoadSettings {
        LoadSettings {
            warm_up: Duration::from_secs_f64(self.warm_up),
            measured: Duration::from_secs_f64(self.seconds),
            connections: self.connections.into(),
            seed: self.seed,
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.deadline_ms.map(Duration::from_millis)
    }

    pub(super) fn inputs_per_request(&self) -> usize {
        self.inputs_per_request.into()
    }

    pub(super) fn infer_key(&self) -> Result<Option<String>> {
        key(self.infer_key_file.as_deref(), "TRUNKLINE_INFER_KEY")
    }

    pub(super) fn texts(&self) -> Result<Vec<Text>> {
        let found = match &self.texts {
            None => texts::built_in(),
            Some(path) => {
                let bytes = read_file(path)?;
                let at = |e: Error| e.context(path.display());
                texts::parse(&bytes, TEXTS_BYTES_MAX).map_err(at)?
            }
        };
        Ok(match self.words {
            Some(words) => texts::of_length(&found, words.into()),
            None => found,
        })
    }
}

fn check_writable(path: &Path) -> Result<()> {
    let opened = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
    opened.map(drop).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))
}

pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| Error::from(e).context(path.display()))
}

fn positive(text: &str) -> Result<f64, String> {
    number(text).filter(|&x| x > 0.0).ok_or_else(|| "a number over 0 is wanted".to_owned())
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text).filter(|&x| x >= 0.0).ok_or_else(|| "0 or a number over it is wanted".to_owned())
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|x: &f64| x.is_finite())
}
