//! Which connection or request has waited for its client long enough. Pure: what each does and the time come in.

use crate::telemetry::CutReason;
use crate::transport::TransportConfig;
use crate::transport::server::pace::{Micros, SECOND, micros};

/// A client that was answered before may be silent this many times longer than one that never asked, before it has to make room.
const TRUST_OF_ANSWERED: u64 = 4;

/// What is silent for less is not cut to make room for bytes: it may be about to send.
const DISPLACEABLE_AFTER: Micros = SECOND / 2;

/// While the server drains: how long a connection without a request may take to end by itself.
const DRAIN_SILENCE_MAX: Micros = SECOND;

/// The bounds of a client's waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) connections_max: usize,
    pub(super) header: Micros,
    pub(super) keep_alive: Micros,
    pub(super) body: Micros,
    pub(super) transfer: Micros,
    pub(super) stall: Micros,
    pub(super) bytes_per_second: u64,
}

impl Limits {
    pub(super) fn new(config: &TransportConfig) -> Self {
        Self {
            connections_max: config.connections_max.max(1),
            header: micros(config.header_timeout),
            keep_alive: micros(config.keep_alive_timeout),
            body: micros(config.body_timeout),
            transfer: micros(config.transfer_timeout),
            stall: micros(config.stall_timeout),
            bytes_per_second: config.bytes_per_second_min.max(1),
        }
    }

    /// The shortest wait that is bounded.
    pub(super) fn shortest(&self) -> Micros {
        self.header.min(self.keep_alive).min(self.body).min(self.transfer).min(self.stall)
    }
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// The head of its first request, or one that has begun, is awaited since then.
    Head(Micros),
    /// Between two requests since then.
    Idle(Micros),
    /// All its requests wait for the client; of the least late one, how late.
    Waiting(Micros),
    /// At least one request is ours to work on.
    Working,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Ours,
    /// The rest of a body or message that began at `since` and is late by `lag`.
    Body {
        since: Micros,
        lag: Micros,
        is_upload: bool,
    },
    /// The next message of a stream, with none at work.
    Message(Micros),
    /// The client to take what was answered.
    Reader {
        since: Micros,
        lag: Micros,
    },
    /// Something to tell: a stream of events that has had none since then. It may stay, and costs others no place.
    Event(Micros),
}

/// Why a connection or request ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Header,
    KeepAlive,
    BodySlow,
    BodyTimeout,
    Answer,
    StreamIdle,
    Crowded,
    Bytes,
    Drain,
}

impl Reason {
    /// As `trunkline_connections_cut_total` counts it.
    pub(super) fn counted(self) -> CutReason {
        match self {
            Self::Header => CutReason::Header,
            Self::KeepAlive => CutReason::KeepAlive,
            Self::BodySlow | Self::BodyTimeout => CutReason::Body,
            Self::Answer => CutReason::Answer,
            Self::StreamIdle => CutReason::StreamIdle,
            Self::Crowded => CutReason::Crowded,
            Self::Bytes => CutReason::Bytes,
            Self::Drain => CutReason::Drain,
        }
    }
}

/// Whether a connection without a request at work is over.
pub(super) fn over(doing: Doing, now: Micros, limits: &Limits, draining: bool) -> Option<Reason> {
    let (since, bound, reason) = match doing {
        Doing::Head(since) => (since, limits.header, Reason::Header),
        Doing::Idle(since) => (since, limits.keep_alive, Reason::KeepAlive),
        Doing::Waiting(_) | Doing::Working => return None,
    };
    let silence = now.saturating_sub(since);
    if silence >= bound {
        return Some(reason);
    }
    (draining && silence >= DRAIN_SILENCE_MAX).then_some(Reason::Drain)
}

/// Whether a request's client took too long.
pub(super) fn late(wait: Wait, now: Micros, limits: &Limits) -> Option<Reason> {
    match wait {
        Wait::Ours | Wait::Event(_) => None,
        Wait::Body { since, lag, is_upload } => {
            let bound = if is_upload { limits.transfer } else { limits.body };
            let is_over = now.saturating_sub(since) >= bound;
            if is_over { Some(Reason::BodyTimeout) } else { (lag >= limits.stall).then_some(Reason::BodySlow) }
        }
        Wait::Message(since) => (now.saturating_sub(since) >= limits.transfer).then_some(Reason::StreamIdle),
        Wait::Reader { since, lag } => {
            let is_over = now.saturating_sub(since) >= limits.transfer;
            (is_over || lag >= limits.stall).then_some(Reason::Answer)
        }
    }
}

/// How long a request has made no progress; None while it is ours to work on.
pub(super) fn lag(wait: Wait, now: Micros) -> Option<Micros> {
    match wait {
        Wait::Ours => None,
        Wait::Body { lag, .. } | Wait::Reader { lag, .. } => Some(lag),
        Wait::Message(since) | Wait::Event(since) => Some(now.saturating_sub(since)),
    }
}

/// At the bound of connections the one with the highest number goes; None: it may not.
pub(super) fn displaceable(doing: Doing, was_answered: bool, now: Micros) -> Option<Micros> {
    let silence = match doing {
        Doing::Head(since) | Doing::Idle(since) => now.saturating_sub(since),
        Doing::Waiting(lag) => lag,
        Doing::Working => return None,
    };
    Some(if was_answered { silence / TRUST_OF_ANSWERED } else { silence })
}

/// At the bound of bytes in flight the request with the highest number goes; None: it may not.
pub(super) fn displaceable_for_bytes(wait: Wait, now: Micros) -> Option<Micros> {
    lag(wait, now).filter(|&lag| lag >= DISPLACEABLE_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        connections_max: 8,
        header: 10 * SECOND,
        keep_alive: 75 * SECOND,
        body: 30 * SECOND,
        transfer: 600 * SECOND,
        stall: 15 * SECOND,
        bytes_per_second: 500,
    };

    #[test]
    fn a_connection_without_a_request_ends_after_its_own_bound() {
        let check = |doing, second: u64, draining, wanted| {
            assert_eq!(over(doing, second * SECOND, &LIMITS, draining), wanted, "{doing:?} at {second} s");
        };
        check(Doing::Head(0), 9, false, None);
        check(Doing::Head(0), 10, false, Some(Reason::Header));
        check(Doing::Head(5 * SECOND), 10, false, None);
        check(Doing::Idle(0), 74, false, None);
        check(Doing::Idle(0), 75, false, Some(Reason::KeepAlive));
        check(Doing::Idle(0), 0, true, None);
        check(Doing::Idle(0), 1, true, Some(Reason::Drain));
        check(Doing::Head(0), 1, true, Some(Reason::Drain));
        check(Doing::Waiting(9999 * SECOND), 9999, true, None);
        check(Doing::Working, 9999, true, None);
    }

    #[test]
    fn a_request_ends_when_its_client_is_late_and_never_while_it_is_ours() {
        let check = |wait, second: u64, wanted| {
            assert_eq!(late(wait, second * SECOND, &LIMITS), wanted, "{wait:?} at {second} s");
        };
        let body = |lag: u64, is_upload| Wait::Body { since: 0, lag: lag * SECOND, is_upload };
        check(Wait::Ours, 9999, None);
        check(Wait::Event(0), 9999, None);
        check(body(14, false), 20, None);
        check(body(15, false), 20, Some(Reason::BodySlow));
        check(body(0, false), 30, Some(Reason::BodyTimeout));
        check(body(0, true), 30, None);
        check(body(0, true), 600, Some(Reason::BodyTimeout));
        check(Wait::Message(0), 599, None);
        check(Wait::Message(0), 600, Some(Reason::StreamIdle));
        check(Wait::Reader { since: 0, lag: 0 }, 599, None);
        check(Wait::Reader { since: 0, lag: 0 }, 600, Some(Reason::Answer));
        check(Wait::Reader { since: 0, lag: 15 * SECOND }, 20, Some(Reason::Answer));
    }

    /// Who goes first among connections, given as (what it does, was answered).
    fn first(connections: &[(Doing, bool)]) -> Option<usize> {
        let now = 100 * SECOND;
        let ranked = connections.iter().map(|&(doing, answered)| displaceable(doing, answered, now)).enumerate();
        ranked.filter_map(|(at, rank)| Some((rank?, at))).max().map(|(_, at)| at)
    }

    #[test]
    fn at_the_bound_the_longest_silent_goes_and_work_never_does() {
        let at = |second: u64| second * SECOND;
        assert_eq!(first(&[(Doing::Working, true)]), None);
        assert_eq!(first(&[(Doing::Head(at(99)), false), (Doing::Head(at(98)), false)]), Some(1));
        assert_eq!(first(&[(Doing::Idle(at(90)), true), (Doing::Idle(at(89)), true), (Doing::Working, true)]), Some(1));
        // One that was answered is silent for 7 s, one that never asked for 2 s; at 9 s it is the other way round.
        assert_eq!(first(&[(Doing::Idle(at(93)), true), (Doing::Head(at(98)), false)]), Some(1));
        assert_eq!(first(&[(Doing::Idle(at(91)), true), (Doing::Head(at(98)), false)]), Some(0));
        // A body that comes at the least rate is not late, however old its connection is.
        assert_eq!(first(&[(Doing::Waiting(0), false), (Doing::Head(at(99)), false)]), Some(1));
        assert_eq!(first(&[(Doing::Waiting(at(3)), false), (Doing::Head(at(98)), false)]), Some(0));
    }

    #[test]
    fn for_bytes_nobody_goes_who_was_heard_just_now() {
        let body = |lag| Wait::Body { since: 0, lag, is_upload: false };
        assert_eq!(displaceable_for_bytes(body(DISPLACEABLE_AFTER - 1), SECOND), None);
        assert_eq!(displaceable_for_bytes(body(SECOND), SECOND), Some(SECOND));
        assert_eq!(displaceable_for_bytes(Wait::Reader { since: 0, lag: 2 * SECOND }, SECOND), Some(2 * SECOND));
        assert_eq!(displaceable_for_bytes(Wait::Ours, 9 * SECOND), None);
    }
}
