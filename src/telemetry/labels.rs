//! Label values that form a closed list. Each has its series from the start: a rate over a counter that appears with its
//! first event misses that event, and an alert on it stays silent. Names of metrics are in `metrics`.

use std::marker::PhantomData;

use prometheus::IntCounterVec;

/// A closed list of values of one label.
pub trait LabelValue: Copy + 'static {
    const ALL: &'static [Self];

    fn as_str(self) -> &'static str;
}

/// An enum, its list and its words from one table, so that a new value cannot be left out of any of them.
macro_rules! label_values {
    ($(#[$about:meta])* $name:ident { $($(#[$meaning:meta])* $value:ident => $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$meaning])* $value,)+ }

        impl LabelValue for $name {
            const ALL: &'static [Self] = &[$(Self::$value,)+];

            fn as_str(self) -> &'static str {
                match self { $(Self::$value => $word,)+ }
            }
        }
    };
}

label_values! {
    /// Why a request was refused before it took any work.
    RejectReason {
        /// No room for its tokens in the queue.
        QueueFull => "queue_full",
        /// The queue's tokens take longer than its deadline leaves.
        Deadline => "deadline",
        /// More tokens than one request may have.
        TooLarge => "too_large",
        /// No room for its text among what is accepted and not computed yet: it is not tokenized.
        TokenizerFull => "tokenizer_full",
        /// No room for its body among the bytes in flight.
        BytesFull => "bytes_full",
    }
}

label_values! {
    /// Why a connection, or one of its requests, was ended before its client did.
    CutReason {
        /// The head of a request took too long to come.
        Header => "header",
        /// Nothing was asked for longer than an idle connection is kept.
        KeepAlive => "keep_alive",
        /// A body came too slowly.
        Body => "body",
        /// An answer was taken too slowly.
        Answer => "answer",
        /// A stream brought no message for too long.
        StreamIdle => "stream_idle",
        /// All places were taken, and its client was silent longest.
        Crowded => "crowded",
        /// The bytes in flight were all taken, and its client was slowest.
        Bytes => "bytes",
        /// The server drains.
        Drain => "drain",
    }
}

label_values! {
    /// Where a request was when its deadline passed or its caller left.
    ExpiredStage {
        Admission => "admission",
        Queue => "queue",
        Compute => "compute",
    }
}

label_values! {
    /// How making an adapter resident ended.
    LoadOutcome {
        Ok => "ok",
        Error => "error",
    }
}

label_values! {
    /// The parts of a request's time.
    Phase {
        Queue => "queue",
        Tokenize => "tokenize",
        Compute => "compute",
        Decode => "decode",
    }
}

/// A counter for each value of a closed list.
pub struct CounterBy<L> {
    counters: IntCounterVec,
    label: PhantomData<L>,
}

impl<L: LabelValue> CounterBy<L> {
    /// `counters` has one label, whose values are those of `L`.
    pub(super) fn new(counters: IntCounterVec) -> Self {
        L::ALL.iter().for_each(|value| drop(counters.with_label_values(&[value.as_str()])));
        Self { counters, label: PhantomData }
    }

    pub fn inc(&self, value: L) {
        self.counters.with_label_values(&[value.as_str()]).inc();
    }

    pub fn get(&self, value: L) -> u64 {
        self.counters.with_label_values(&[value.as_str()]).get()
    }
}
