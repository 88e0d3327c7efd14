//! The way every request takes: a guess is admitted, texts are read, windows counted and then built, brought into the queue as far as the
//! request's share allows, outputs gathered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::domain::{Error, LongText, Result, TextInput};
use crate::engine::{BatchSequence, Output, Work};
use crate::serving::admission::{Admission, Hold, Ticket, guess_tokens};
use crate::serving::flow::{Caller, Flow};
use crate::serving::inference::decode::Computed;
use crate::serving::inference::read::{Reader, Text, at_input, bytes};
use crate::serving::inference::request::Timings;
use crate::serving::scheduler::{Done, Item, Progress, Scheduler, answer};
use crate::telemetry::{IntGauge, Metrics};
use crate::text::{Cut, Fitted, Layout, Tokenizer};

/// Scores of one request: its tokens times the classes of its adapters. They are kept until its last window is computed: 32 MiB.
const OUTPUT_VALUES_MAX: usize = 8 << 20;

/// What every text of a request goes through.
pub(super) struct Target {
    pub(super) work: Work,
    pub(super) cut: Cut,
    /// Values that are computed for each token.
    pub(super) columns: usize,
}

/// All of its targets are of one backbone.
pub(super) struct Pass {
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) inputs: Vec<TextInput>,
    pub(super) targets: Vec<Target>,
    pub(super) flow: Flow,
    pub(super) caller: Caller,
    pub(super) deadline: Instant,
    pub(super) progress: Arc<Progress>,
}

/// For each target, in order, what was computed of each text; or why it was not.
pub(super) struct Passed {
    pub(super) texts: Vec<Text>,
    pub(super) computed: Vec<Result<Vec<Computed>>>,
    /// Decoding is the caller's.
    pub(super) timings: Timings,
    /// Held until the answer.
    pub(super) ticket: Ticket,
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

impl Group {
    fn tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.ids.len()).sum()
    }
}

/// How the groups of a request enter the queue.
struct Entrance {
    flow: Flow,
    caller: Caller,
    deadline: Instant,
    progress: Arc<Progress>,
    /// For each target the gauge of its adapter.
    gauges: Vec<Option<IntGauge>>,
}

impl Line {
    /// Fails as a whole if it is refused or a text cannot be read; otherwise each target fails alone.
    pub(super) async fn run(&self, pass: Pass) -> Result<Passed> {
        let Pass { tokenizer, inputs, targets, flow, caller, deadline, progress } = pass;
        let guess = Guess::of(&inputs, &targets, self.shared_tokens_max(&targets));
        let who = (flow.clone(), caller);
        let entered = self.admission.enter(who, guess.first, guess.total, Instant::now(), deadline).await?;
        let (mut ticket, first) = entered;

        let started = Instant::now();
        let cuts: Vec<Cut> = targets.iter().map(|target| target.cut).collect();
        let texts = self.reader.read(tokenizer.clone(), inputs, &cuts, (&flow, caller)).await?;
        let tokenize = started.elapsed();

        let fitted = fit(&tokenizer, &texts, &targets, &mut ticket)?;
        let groups = groups(&targets, &fitted, texts.len(), self.shared_tokens_max(&targets));
        let places: Vec<Vec<Place>> = groups.iter().map(|group| group.places.clone()).collect();
        let started = Instant::now();
        let gauges = targets.iter().map(|target| self.gauge(target)).collect();
        let entrance = Entrance { flow, caller, deadline, progress, gauges };
        let replies = self.enqueue(&entrance, groups, &ticket, first).await?;
        let done: Vec<Done> = join_all(replies.into_iter().map(answer)).await.into_iter().collect::<Result<_>>()?;

        let queue = done.iter().map(|done| done.queue).max().unwrap_or_default();
        let compute = started.elapsed().saturating_sub(queue);
        let timings = Timings { queue, tokenize, compute, decode: Duration::ZERO };
        Ok(Passed { texts, computed: gather(fitted, &places, done), timings, ticket })
    }

    /// Tokens that enter the queue together. One target: each sequence on its own, which packs best. Several: those of one text, as
    /// far as a batch takes them, so that the layers below their adapters run once.
    fn shared_tokens_max(&self, targets: &[Target]) -> usize {
        if targets.len() > 1 { self.batch_tokens_max } else { 0 }
    }

    fn gauge(&self, target: &Target) -> Option<IntGauge> {
        let adapter = target.work.adapter()?;
        let label = self.metrics.adapter_label(adapter.identity.name.as_str());
        Some(self.metrics.queue_tokens.with_label_values(&[label]))
    }

    /// Brings all groups into the queue, each as soon as its tokens are free.
    async fn enqueue(
        &self,
        entrance: &Entrance,
        groups: Vec<Group>,
        ticket: &Ticket,
        first: Hold,
    ) -> Result<Vec<oneshot::Receiver<Done>>> {
        let mut replies = Vec::with_capacity(groups.len());
        let mut groups = groups.into_iter().peekable();
        let mut hold = match groups.peek() {
            Some(group) => Some(ticket.fit(first, group.tokens()).await?),
            None => None,
        };
        while let Some(held) = hold.take() {
            let mut items = Vec::new();
            let mut next = Some(held);
            while let Some(held) = next.take() {
                let Some(group) = groups.next() else { break };
                let (item, reply) = entrance.item(group, held);
                items.push(item);
                replies.push(reply);
                next = groups.peek().and_then(|group| ticket.try_hold(group.tokens()));
            }
            self.scheduler.push(entrance.flow.clone(), entrance.caller, items);
            if let Some(group) = groups.peek() {
                hold = Some(ticket.hold(group.tokens()).await?);
            }
        }
        Ok(replies)
    }
}

impl Entrance {
    fn item(&self, group: Group, mut hold: Hold) -> (Item, oneshot::Receiver<Done>) {
        for (place, sequence) in group.places.iter().zip(&group.sequences) {
            if let Some(gauge) = &self.gauges[place.target] {
                hold.show(gauge, sequence.ids.len());
            }
        }
        let (reply, answer) = oneshot::channel();
        let item = Item {
            sequences: group.sequences,
            deadline: self.deadline,
            enqueued_at: Instant::now(),
            progress: self.progress.clone(),
            reply,
            hold,
        };
        (item, answer)
    }
}

/// Windows of every text for every target: counted and settled before the first is built. A target that refuses a text fails alone.
fn fit(
    tokenizer: &Tokenizer,
    texts: &[Text],
    targets: &[Target],
    ticket: &mut Ticket,
) -> Result<Vec<Result<Vec<Fitted>>>> {
    let many = texts.len() > 1;
    let layout = |target: &Target| -> Result<Vec<Layout>> {
        let one = |(at, text): (usize, &Text)| {
            Layout::new(tokenizer, &text.encoding, target.cut).map_err(|error| at_input(error, at, many))
        };
        texts.iter().enumerate().map(one).collect()
    };
    let layouts: Vec<Result<Vec<Layout>>> = targets.iter().map(layout).collect();
    let tokens = |layouts: &Result<Vec<Layout>>| layouts.iter().flatten().map(Layout::tokens).sum::<usize>();
    ticket.settle(layouts.iter().map(tokens).sum())?;
    let values = layouts.iter().zip(targets).map(|(layouts, target)| tokens(layouts) * target.columns).sum();
    refuse_many_values(values)?;
    let build = |layouts: Vec<Layout>| -> Vec<Fitted> {
        layouts.iter().zip(texts).map(|(layout, text)| layout.build(tokenizer, &text.encoding)).collect()
    };
    Ok(layouts.into_iter().map(|layouts| layouts.map(build)).collect())
}

fn refuse_many_values(values: usize) -> Result<()> {
    if values <= OUTPUT_VALUES_MAX {
        return Ok(());
    }
    Err(Error::too_large(format!(
        "the request asks for {values} scores (its tokens times the classes of its adapters); at most {OUTPUT_VALUES_MAX} are \
         taken at once: send fewer or shorter inputs, or fewer candidate labels"
    )))
}

/// Sequences that go into the queue together, in the order of the texts: at most `room` tokens, or one sequence.
fn groups(targets: &[Target], fitted: &[Result<Vec<Fitted>>], texts: usize, room: usize) -> Vec<Group> {
    let mut groups = Vec::new();
    for text in 0..texts {
        let of_text: Vec<(usize, &Fitted)> =
            fitted.iter().enumerate().filter_map(|(at, fitted)| Some((at, &fitted.as_ref().ok()?[text]))).collect();
        pack(targets, text, &of_text, room, &mut groups);
    }
    groups
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
struct Guess {
    /// Of what goes into the queue first.
    first: usize,
    total: usize,
}

impl Guess {
    fn of(inputs: &[TextInput], targets: &[Target], shared: usize) -> Self {
        let first = |input: &TextInput| {
            let windows = targets.iter().map(|target| guess_tokens(bytes(input)).min(target.cut.max_length));
            if shared == 0 { windows.sum() } else { windows.sum::<usize>().min(shared) }
        };
        let one = |target: &Target, input: &TextInput| {
            let guess = guess_tokens(bytes(input));
            match target.cut.long_text {
                LongText::Window => guess,
                LongText::Truncate | LongText::Error => guess.min(target.cut.max_length),
            }
        };
        let total = targets.iter().flat_map(|target| inputs.iter().map(move |input| one(target, input))).sum();
        Self { first: inputs.first().map_or(1, first), total }
    }
}
