//! What came of one load: requests counted by when they were due, speed by when answers came.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde::Serialize;

use super::client::{Exchange, Failure, Outcome, ServerTiming};
use super::latency::{Latencies, Sorted, Summary};
use super::load::Load;

/// The client's own lateness that may pass: a stage with more says more of the client than of the server.
const SEND_LAG_P99_MAX_MS: f64 = 5.0;

/// Adds up a stage, one exchange at a time.
pub(super) struct Tally {
    /// What is measured: after the warm-up, before the end.
    window: Range<Duration>,
    deadline: Option<Duration>,
    offered: u64,
    late: u64,
    refused: u64,
    expired: u64,
    failures: BTreeMap<Failure, u64>,
    latencies: Latencies,
    refusals: Latencies,
    lags: Latencies,
    timing: ServerTiming,
    timed: u64,
    speed: Speed,
}

/// Answers that came within the window, whenever they were due: a backlog that is answered after it is no throughput.
#[derive(Default)]
struct Speed {
    answers: u64,
    good: u64,
    sequences: u64,
    tokens: u64,
}

/// One load's figures, as the JSON report has them. Counts are of requests that were due in the measured time;
/// `offered = accepted + refused + expired + failed`.
#[derive(Debug, Serialize)]
pub(super) struct Stage {
    #[serde(flatten)]
    pub(super) load: Load,
    pub(super) measured_seconds: f64,
    pub(super) offered: u64,
    /// 200, of which `late` after the deadline.
    pub(super) accepted: u64,
    pub(super) late: u64,
    /// 429.
    pub(super) refused: u64,
    /// 504.
    pub(super) expired: u64,
    pub(super) failed: u64,
    /// By kind: `connect`, `disconnected`, `timeout`, `not_sent`, `unreadable`, `http_<status>`.
    pub(super) failures: BTreeMap<String, u64>,
    pub(super) offered_per_second: f64,
    /// 200s that came in the measured time.
    pub(super) answers_per_second: f64,
    /// Of those, the ones within the deadline.
    pub(super) goodput_per_second: f64,
    pub(super) sequences_per_second: f64,
    pub(super) tokens_per_second: f64,
    pub(super) tokens_per_sequence: f64,
    /// From due to answered, of accepted requests.
    pub(super) latency_ms: Option<Summary>,
    /// From due to refused.
    pub(super) refusal_latency_ms: Option<Summary>,
    /// From due to sent: the client's own part.
    pub(super) send_lag_ms: Option<Summary>,
    /// Means of what the server said of accepted requests.
    pub(super) server_ms: Option<ServerTiming>,
    pub(super) connections_peak: usize,
    pub(super) warnings: Vec<String>,
    /// Quantile and milliseconds, for the plot.
    #[serde(skip)]
    pub(super) curve: Vec<(f64, f64)>,
}

impl Tally {
    pub(super) fn new(window: Range<Duration>, deadline: Option<Duration>) -> Self {
        Self {
            window,
            deadline,
            offered: 0,
            late: 0,
            refused: 0,
            expired: 0,
            failures: BTreeMap::new(),
            latencies: Latencies::default(),
            refusals: Latencies::default(),
            lags: Latencies::default(),
            timing: ServerTiming::default(),
            timed: 0,
            speed: Speed::default(),
        }
    }

    pub(super) fn record(&mut self, exchange: &Exchange) {
        if self.window.contains(&exchange.done) {
            self.count_speed(exchange);
        }
        if self.window.contains(&exchange.due) {
            self.count_end(exchange);
        }
    }

    fn count_speed(&mut self, exchange: &Exchange) {
        let Outcome::Accepted(answer) = exchange.outcome else { return };
        self.speed.answers += 1;
        self.speed.good += u64::from(!self.is_late(exchange));
        self.speed.sequences += answer.sequences;
        self.speed.tokens += answer.tokens;
    }

    fn count_end(&mut self, exchange: &Exchange) {
        let latency = exchange.done.saturating_sub(exchange.due);
        self.offered += 1;
        self.lags.push(exchange.sent.saturating_sub(exchange.due));
        match exchange.outcome {
            Outcome::Accepted(answer) => {
                self.latencies.push(latency);
                self.late += u64::from(self.is_late(exchange));
                answer.timing.iter().for_each(|timing| self.add(timing));
            }
            Outcome::Refused => {
                self.refusals.push(latency);
                self.refused += 1;
            }
            Outcome::Expired => self.expired += 1,
            Outcome::Failed(failure) => *self.failures.entry(failure).or_default() += 1,
        }
    }

    fn is_late(&self, exchange: &Exchange) -> bool {
        self.deadline.is_some_and(|deadline| exchange.done.saturating_sub(exchange.due) > deadline)
    }

    fn add(&mut self, timing: &ServerTiming) {
        self.timed += 1;
        self.timing.queue += timing.queue;
        self.timing.tokenize += timing.tokenize;
        self.timing.compute += timing.compute;
        self.timing.total += timing.total;
    }

    fn mean_timing(&self) -> Option<ServerTiming> {
        let mean = |sum: f64| sum / self.timed as f64;
        (self.timed > 0).then(|| ServerTiming {
            queue: mean(self.timing.queue),
            tokenize: mean(self.timing.tokenize),
            compute: mean(self.timing.compute),
            total: mean(self.timing.total),
        })
    }

    /// `connections_peak` of `connections` were in use at once.
    pub(super) fn finish(self, load: Load, connections_peak: usize, connections: usize) -> Stage {
        let seconds = (self.window.end - self.window.start).as_secs_f64();
        let a_second = |count: u64| count as f64 / seconds;
        let (server_ms, speed) = (self.mean_timing(), self.speed);
        let (latencies, lags) = (self.latencies.sorted(), self.lags.sorted());
        let latency_ms = latencies.summary();
        let failed = self.failures.values().sum();
        Stage {
            load,
            measured_seconds: seconds,
            offered: self.offered,
            accepted: self.offered - self.refused - self.expired - failed,
            late: self.late,
            refused: self.refused,
            expired: self.expired,
            failed,
            failures: self.failures.iter().map(|(failure, count)| (failure.to_string(), *count)).collect(),
            offered_per_second: a_second(self.offered),
            answers_per_second: a_second(speed.answers),
            goodput_per_second: a_second(speed.good),
            sequences_per_second: a_second(speed.sequences),
            tokens_per_second: a_second(speed.tokens),
            tokens_per_sequence: speed.tokens as f64 / speed.sequences.max(1) as f64,
            latency_ms,
            refusal_latency_ms: self.refusals.sorted().summary(),
            send_lag_ms: lags.summary(),
            server_ms,
            connections_peak,
            warnings: warnings(load, &lags, connections_peak >= connections),
            curve: latencies.curve(),
        }
    }
}

/// A closed loop's requests are due when they are sent, and its connections are its clients.
fn warnings(load: Load, lags: &Sorted, all_connections: bool) -> Vec<String> {
    let Load::Open { .. } = load else { return Vec::new() };
    let mut warnings = Vec::new();
    let lag = lags.at(0.99).unwrap_or(0.0);
    if lag > SEND_LAG_P99_MAX_MS {
        warnings.push(format!(
            "the client sent late (p99 {lag:.1} ms, over {SEND_LAG_P99_MAX_MS} ms): its own delay is in these latencies"
        ));
    }
    if all_connections {
        warnings
            .push("all connections were in use at once; requests may have waited for one (--connections)".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::super::client::Answer;
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;
    const OPEN: Load = Load::Open { rate: 4.0, share: None };

    /// Due, sent and done in milliseconds.
    fn stage(exchanges: &[(u64, u64, u64, Outcome)]) -> Stage {
        let mut tally = Tally::new(MS(1000)..MS(3000), Some(MS(100)));
        for &(due, sent, done, outcome) in exchanges {
            tally.record(&Exchange { due: MS(due), sent: MS(sent), done: MS(done), outcome });
        }
        tally.finish(OPEN, 3, 4)
    }

    fn accepted(tokens: u64) -> Outcome {
        let timing = ServerTiming { queue: tokens as f64, tokenize: 1.0, compute: 2.0, total: 4.0 };
        Outcome::Accepted(Answer { tokens, sequences: 2, timing: Some(timing) })
    }

    #[test]
    fn every_offered_request_ends_in_one_count() {
        let stage = stage(&[
            (999, 999, 1001, Outcome::Refused), // due in the warm-up
            (1000, 1001, 1050, accepted(10)),
            (1100, 1100, 1300, accepted(20)),
            (1200, 1200, 1201, Outcome::Refused),
            (1300, 1300, 1400, Outcome::Expired),
            (1400, 1400, 1401, Outcome::Failed(Failure::Status(500))),
            (2999, 2999, 3500, Outcome::Failed(Failure::Connect)),
            (3000, 3000, 3001, accepted(30)), // due after the end
        ]);
        let counts = (stage.offered, stage.accepted, stage.late, stage.refused, stage.expired, stage.failed);
        assert_eq!(counts, (6, 2, 1, 1, 1, 2));
        assert_eq!(stage.failures, BTreeMap::from([("connect".into(), 1), ("http_500".into(), 1)]));
        assert_eq!(stage.server_ms.unwrap().queue, 15.0);
        assert_eq!((stage.latency_ms.unwrap().p50, stage.latency_ms.unwrap().max), (50.0, 200.0));
        assert_eq!(stage.send_lag_ms.unwrap().max, 1.0);
    }

    #[test]
    fn speed_is_of_answers_that_came_in_the_measured_time() {
        let stage = stage(&[
            (900, 900, 1000, accepted(10)),    // due in the warm-up, answered in time
            (1000, 1000, 2000, accepted(30)),  // late
            (2900, 2900, 3000, accepted(500)), // answered after the end
        ]);
        assert_eq!((stage.answers_per_second, stage.goodput_per_second), (1.0, 0.5));
        assert_eq!((stage.tokens_per_second, stage.sequences_per_second, stage.tokens_per_sequence), (20.0, 2.0, 10.0));
    }

    #[test]
    fn a_client_that_was_late_is_told() {
        assert!(stage(&[(1000, 1001, 1002, accepted(1))]).warnings.is_empty());
        assert!(stage(&[(1000, 1006, 1007, accepted(1))]).warnings[0].contains("p99 6.0 ms"));
        let full = Tally::new(MS(0)..MS(1), None).finish(OPEN, 4, 4);
        assert!(full.warnings[0].contains("--connections"));
        assert!(Tally::new(MS(0)..MS(1), None).finish(Load::Closed { clients: 4 }, 4, 4).warnings.is_empty());
    }
}
