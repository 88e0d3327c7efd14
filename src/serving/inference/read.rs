//! Texts to model input, off the async threads and within bounds: how many tokenize at once, and how many bytes wait for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::{Error, LongText, Result, TextInput};
use crate::serving::admission::Admission;
use crate::telemetry::RejectReason;
use crate::text::{Encoding, Fitted, Tokenizer, fit};

/// Texts in or before tokenization: eight of the largest bodies, a second or two of work.
const BACKLOG_BYTES_MAX: usize = 16 << 20;
/// Tokenizing drains its backlog within about that.
const BACKLOG_RETRY: Duration = Duration::from_secs(1);

/// How one target cuts its texts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cut {
    /// Tokens of a sequence, special ones included.
    pub(super) max_length: usize,
    pub(super) long_text: LongText,
    /// Tokens that neighbouring windows share.
    pub(super) stride: usize,
}

/// An input and its tokens.
pub(super) struct Text {
    pub(super) input: TextInput,
    pub(super) encoding: Encoding,
}

/// Inputs as model input.
pub(super) struct Readings {
    pub(super) texts: Vec<Text>,
    /// For each cut the texts' windows; a cut that refuses one of the texts fails alone.
    pub(super) fitted: Vec<Result<Vec<Fitted>>>,
}

/// The bounds of tokenization.
pub(super) struct Reader {
    threads: Arc<Semaphore>,
    backlog: Arc<Semaphore>,
}

impl Reader {
    pub(super) fn new(threads: usize) -> Self {
        let threads = Arc::new(Semaphore::new(threads.max(1)));
        Self { threads, backlog: Arc::new(Semaphore::new(BACKLOG_BYTES_MAX)) }
    }

    /// Tokenizes once and cuts for each target. Without `wait`, `overloaded` at once if too many bytes wait already.
    pub(super) async fn read(
        &self,
        tokenizer: Arc<Tokenizer>,
        inputs: Vec<TextInput>,
        cuts: Vec<Cut>,
        admission: &Admission,
        wait: bool,
    ) -> Result<Readings> {
        let place = self.place(inputs.iter().map(bytes).sum(), admission, wait).await?;
        let thread = self.threads.clone().acquire_owned().await.map_err(|_closed| stopping())?;
        let work = move || {
            // Both are free again when the work is done, also if nobody waits for it any more.
            let _held = (place, thread);
            read(&tokenizer, inputs, &cuts)
        };
        let failed = |source| Error::internal("tokenization ended unexpectedly").with_source(source);
        tokio::task::spawn_blocking(work).await.map_err(failed)?
    }

    async fn place(&self, bytes: usize, admission: &Admission, wait: bool) -> Result<OwnedSemaphorePermit> {
        let bytes = bytes.clamp(1, BACKLOG_BYTES_MAX) as u32;
        let backlog = self.backlog.clone();
        if wait {
            return backlog.acquire_many_owned(bytes).await.map_err(|_closed| stopping());
        }
        backlog.try_acquire_many_owned(bytes).map_err(|_full| {
            admission.reject(RejectReason::TokenizerFull);
            Error::overloaded(format!("{BACKLOG_BYTES_MAX} bytes of text wait for the tokenizer"), BACKLOG_RETRY)
        })
    }
}

fn read(tokenizer: &Tokenizer, inputs: Vec<TextInput>, cuts: &[Cut]) -> Result<Readings> {
    let many = inputs.len() > 1;
    let encode = |(at, input): (usize, TextInput)| {
        let encoding = tokenizer.encode(&input).map_err(|error| at_input(error, at, many))?;
        Ok(Text { input, encoding })
    };
    let texts: Vec<Text> = inputs.into_iter().enumerate().map(encode).collect::<Result<_>>()?;
    let fit_one = |cut: &Cut, at: usize, text: &Text| {
        fit(tokenizer, &text.encoding, cut.max_length, cut.long_text, cut.stride).map_err(|e| at_input(e, at, many))
    };
    let fit_all = |cut: &Cut| texts.iter().enumerate().map(|(at, text)| fit_one(cut, at, text)).collect();
    let fitted = cuts.iter().map(fit_all).collect();
    Ok(Readings { texts, fitted })
}

/// Says which of several inputs failed.
pub(super) fn at_input(error: Error, at: usize, many: bool) -> Error {
    if many { error.context(format!("inputs[{at}]")) } else { error }
}

/// UTF-8 bytes of all of an input.
pub(super) fn bytes(input: &TextInput) -> usize {
    match input {
        TextInput::Text(text) => text.len(),
        TextInput::Words(words) => words.iter().map(|word| word.len() + 1).sum(),
        TextInput::Pair { text, text_pair } => text.len() + text_pair.len(),
    }
}

fn stopping() -> Error {
    Error::unavailable("the server is stopping")
}
