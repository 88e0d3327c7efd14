//! The way every request takes: a guess is admitted, texts are read, the permit settled, sequences queued, outputs gathered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::domain::{LongText, Result, TextInput};
use crate::engine::{BatchSequence, Output, Work};
use crate::serving::admission::{Admission, Permit, guess_tokens};
use crate::serving::inference::decode::Computed;
use crate::serving::inference::read::{Cut, Reader, Readings, Text, bytes};
use crate::serving::inference::request::Timings;
use crate::serving::scheduler::{Done, Flow, Item, Progress, Scheduler, answer};
use crate::telemetry::Metrics;
use crate::text::{Fitted, Tokenizer};

/// What every text of a request goes through.
pub(super) struct Target {
    pub(super) work: Work,
    pub(super) cut: Cut,
}

/// All of its targets are of one backbone.
pub(super) struct Pass {
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) inputs: Vec<TextInput>,
    pub(super) targets: Vec<Target>,
    pub(super) flow: Flow,
    pub(super) deadline: Instant,
    /// Wait for room rather than be refused.
    pub(super) wait: bool,
    pub(super) progress: Arc<Progress>,
}

/// For each target, in order, what was computed of each text; or why it was not.
pub(super) struct Passed {
    pub(super) texts: Vec<Text>,
    pub(super) computed: Vec<Result<Vec<Computed>>>,
    /// Decoding is the caller's.
    pub(super) timings: Timings,
    /// Held until the answer.
    pub(super) permit: Arc<Permit>,
}

/// The parts a pass needs.
pub(super) struct Line {
    pub(super) admission: Arc<Admission>,
    pub(super) reader: Reader,
    pub(super) scheduler: Scheduler,
    pub(super) metrics: Arc<Metrics>,
    pub(super) batch_tokens_max: usize,
}

/// One sequence's place: which window of which text for which target.
#[derive(Clone, Copy)]
struct Place {
    target: usize,
    text: usize,
    window: usize,
}

/// Sequences that share a batch, and where their outputs belong.
struct Group {
    places: Vec<Place>,
    sequences: Vec<BatchSequence>,
}

impl Line {
    /// Fails as a whole if it is refused or a text cannot be read; otherwise each target fails alone.
    pub(super) async fn run(&self, pass: Pass) -> Result<Passed> {
        let Pass { tokenizer, inputs, targets, flow, deadline, wait, progress } = pass;
        let guess = guess(&inputs, &targets);
        let mut permit = self.admission.admit(guess, Instant::now(), deadline, wait).await?;

        let started = Instant::now();
        let cuts = targets.iter().map(|target| target.cut).collect();
        let Readings { texts, fitted } = self.reader.read(tokenizer, inputs, cuts, &self.admission, wait).await?;
        let tokenize = started.elapsed();

        self.settle(&mut permit, &targets, &fitted, wait).await?;
        let permit = Arc::new(permit);
        let groups = self.groups(&targets, &fitted, texts.len());
        let places: Vec<Vec<Place>> = groups.iter().map(|group| group.places.clone()).collect();
        let replies = self.enqueue(flow, groups, deadline, &progress, &permit);
        let started = Instant::now();
        let done: Vec<Done> = join_all(replies.into_iter().map(answer)).await.into_iter().collect::<Result<_>>()?;

        let queue = done.iter().map(|done| done.queue).max().unwrap_or_default();
        let compute = started.elapsed().saturating_sub(queue);
        let timings = Timings { queue, tokenize, compute, decode: Duration::ZERO };
        Ok(Passed { texts, computed: gather(fitted, &places, done), timings, permit })
    }

    async fn settle(
        &self,
        permit: &mut Permit,
        targets: &[Target],
        fitted: &[Result<Vec<Fitted>>],
        wait: bool,
    ) -> Result<()> {
        let tokens: Vec<usize> = fitted.iter().map(|fitted| fitted.as_ref().map_or(0, |texts| count(texts))).collect();
        self.admission.settle(permit, tokens.iter().sum(), wait).await?;
        for (target, tokens) in targets.iter().zip(tokens) {
            let Some(adapter) = target.work.adapter() else { continue };
            let label = self.metrics.adapter_label(adapter.identity.name.as_str());
            permit.show(self.metrics.queue_tokens.with_label_values(&[label]), tokens);
        }
        Ok(())
    }

    /// One target: each sequence on its own, which packs best. Several: those of one text together, as far as a batch
    /// takes them, so that the layers below their adapters run once.
    fn groups(&self, targets: &[Target], fitted: &[Result<Vec<Fitted>>], texts: usize) -> Vec<Group> {
        let room = if targets.len() > 1 { self.batch_tokens_max } else { 0 };
        let mut groups = Vec::new();
        for text in 0..texts {
            let of_text: Vec<(usize, &Fitted)> =
                fitted.iter().enumerate().filter_map(|(at, fitted)| Some((at, &fitted.as_ref().ok()?[text]))).collect();
            pack(targets, text, &of_text, room, &mut groups);
        }
        groups
    }

    fn enqueue(
        &self,
        flow: Flow,
        groups: Vec<Group>,
        deadline: Instant,
        progress: &Arc<Progress>,
        permit: &Arc<Permit>,
    ) -> Vec<oneshot::Receiver<Done>> {
        let enqueued_at = Instant::now();
        let item = |group: Group| {
            let (reply, answer) = oneshot::channel();
            let (progress, permit, sequences) = (progress.clone(), permit.clone(), group.sequences);
            (Item { sequences, deadline, enqueued_at, progress, reply, permit }, answer)
        };
        let (items, replies) = groups.into_iter().map(item).unzip();
        self.scheduler.push(flow, items);
        replies
    }
}

/// Appends the sequences of one text, equal windows of different targets side by side, in groups of at most `room` tokens
/// (or one sequence).
fn pack(targets: &[Target], text: usize, fitted: &[(usize, &Fitted)], room: usize, groups: &mut Vec<Group>) {
    let windows = fitted.iter().map(|(_, fitted)| fitted.windows.len()).max().unwrap_or(0);
    let mut left = 0;
    for window in 0..windows {
        for &(target, fitted) in fitted {
            let Some(own) = fitted.windows.get(window) else { continue };
            if own.ids.len() > left {
                groups.push(Group { places: Vec::new(), sequences: Vec::new() });
                left = room;
            }
            left = left.saturating_sub(own.ids.len());
            let Some(group) = groups.last_mut() else { continue };
            group.places.push(Place { target, text, window });
            group.sequences.push(BatchSequence {
                ids: own.ids.as_slice().into(),
                type_ids: own.type_ids.as_slice().into(),
                work: targets[target].work.clone(),
            });
        }
    }
}

/// Outputs back to where they belong.
fn gather(fitted: Vec<Result<Vec<Fitted>>>, places: &[Vec<Place>], done: Vec<Done>) -> Vec<Result<Vec<Computed>>> {
    let empty = |fitted: Fitted| Computed { outputs: Vec::with_capacity(fitted.windows.len()), fitted };
    let mut computed: Vec<Result<Vec<Computed>>> =
        fitted.into_iter().map(|texts| Ok(texts?.into_iter().map(empty).collect())).collect();
    let outputs = done.into_iter().flat_map(|done| done.outputs);
    for (place, output) in places.iter().flatten().zip(outputs) {
        if let Ok(texts) = &mut computed[place.target] {
            put(&mut texts[place.text].outputs, place.window, output);
        }
    }
    computed
}

/// Windows of one text and target come in order.
fn put(outputs: &mut Vec<Result<Output>>, window: usize, output: Result<Output>) {
    debug_assert_eq!(outputs.len(), window);
    outputs.push(output);
}

/// Tokens of a request before it is tokenized.
fn guess(inputs: &[TextInput], targets: &[Target]) -> usize {
    let one = |target: &Target, input: &TextInput| {
        let guess = guess_tokens(bytes(input));
        match target.cut.long_text {
            LongText::Window => guess,
            _ => guess.min(target.cut.max_length),
        }
    };
    targets.iter().flat_map(|target| inputs.iter().map(move |input| one(target, input))).sum()
}

fn count(texts: &[Fitted]) -> usize {
    texts.iter().flat_map(|fitted| &fitted.windows).map(|window| window.ids.len()).sum()
}
