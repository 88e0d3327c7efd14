//! Infer and embed: each says what to compute, takes the common way, and decodes.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::domain::{AdapterName, EmbedParameters, Error, HeadForm, NerParameters, Result, TextInput};
use crate::engine::{Batch, BatchSequence, ResidentAdapter, Through, Work};
use crate::serving::Backbone;
use crate::serving::flow::{Caller, Flow};
use crate::serving::inference::Inner;
use crate::serving::inference::decode::{self, Computed};
use crate::serving::inference::names::{Asking, Named};
use crate::serving::inference::pass::{Pass, Passed, Target};
use crate::serving::inference::read::{Text, at_input};
use crate::serving::inference::request::{
    Answer, EmbedAnswer, EmbedRequest, InferenceRequest, Predictions, Task, Timings,
};
use crate::serving::registry::Lease;
use crate::serving::scheduler::Progress;
use crate::telemetry::{LabelValue as _, Metrics, Phase};
use crate::text::Cut;

/// Tokens that windows of a classified text share, at most; they vote, so little overlap is enough.
const CLASSIFY_OVERLAP_TOKENS: usize = 64;

/// The metrics' label of every candidate label.
const CALLERS_NAME: &str = Metrics::CANDIDATE;

/// A task that may be done.
pub(super) struct Ready {
    pub(super) task: Task,
    pub(super) lease: Lease,
    pub(super) named: Option<Named>,
    /// What encoding the names took.
    pub(super) timings: Timings,
}

impl Inner {
    /// The answer, and the request its alias wants a shadow to see.
    pub(super) async fn answer(
        &self,
        request: InferenceRequest,
        deadline: Instant,
        progress: Arc<Progress>,
    ) -> Result<(Answer, Option<InferenceRequest>)> {
        let InferenceRequest { task, adapter, inputs, caller, .. } = request;
        check_inputs(&inputs)?;
        let lease = match &adapter {
            Some(reference) => self.registry.lease(reference).await?,
            None => self.registry.lease_default(task.family()).await?,
        };
        let shadow = lease.shadow.clone();
        let asking = Asking { deadline, caller, progress: progress.clone() };
        let ready = self.ready(task, lease, &inputs, &asking).await?;
        let targets = vec![self.target(&ready)];
        let flow = Flow::Adapter(ready.lease.adapter.identity.name.clone());
        let tokenizer = ready.lease.backbone.tokenizer.clone();
        let passed = self.line.run(Pass { tokenizer, inputs, targets, flow, caller, deadline, progress }).await?;
        let Passed { texts, computed, timings, ticket } = passed;
        let computed = computed.into_iter().next().ok_or_else(|| Error::internal("a pass without a target"))??;
        let mut answer = self.decode(&ready, &texts, &computed, ready.timings.then(timings))?;
        self.observe(&answer.timings);
        drop(ticket);
        answer.inputs = texts.into_iter().map(|text| text.input).collect();
        let task = ready.task;
        let shadow = shadow.map(|shadow| InferenceRequest {
            task,
            adapter: Some(shadow),
            inputs: answer.inputs.clone(),
            deadline: None,
            caller: Caller::single(),
        });
        Ok((answer, shadow))
    }

    pub(super) async fn embed(
        &self,
        request: EmbedRequest,
        deadline: Instant,
        progress: Arc<Progress>,
    ) -> Result<EmbedAnswer> {
        let EmbedRequest { inputs, adapter, parameters, .. } = request;
        check_inputs(&inputs)?;
        let (adapter, backbone) = match &adapter {
            Some(reference) => {
                let Lease { adapter, backbone, .. } = self.registry.lease(reference).await?;
                (Some(adapter), backbone)
            }
            None => (None, self.registry.backbones().active()),
        };
        let flow = adapter.as_ref().map_or(Flow::Base, |adapter| Flow::Adapter(adapter.identity.name.clone()));
        let max_length = self.max_length(adapter.as_deref(), &backbone).min(backbone.embedded_length());
        let cut = Cut { max_length, long_text: parameters.long_text, stride: 0 };
        // Windows are put together first, and have no length of their own before.
        let of_window = EmbedParameters { normalize: false, ..parameters.clone() };
        let through = adapter.clone().map_or_else(|| Through::Base(backbone.resident.clone()), Through::Adapter);
        let targets = vec![Target { work: Work::Embed(through, of_window), cut, columns: 0 }];
        let tokenizer = backbone.tokenizer.clone();
        let pass = Pass { tokenizer, inputs, targets, flow, caller: Caller::single(), deadline, progress };
        let passed = self.line.run(pass).await?;
        let computed =
            passed.computed.into_iter().next().ok_or_else(|| Error::internal("a pass without a target"))??;
        let tokens = computed.iter().map(Computed::tokens).sum();
        let many = computed.len() > 1;
        let truncated = computed.iter().map(|one| one.fitted.truncated).collect();
        let embedding = |(at, one): (usize, Computed)| {
            decode::embedding(one, &parameters).map_err(|error| at_input(error, at, many))
        };
        let embeddings = computed.into_iter().enumerate().map(embedding).collect::<Result<_>>()?;
        adapter.iter().for_each(|adapter| drop(self.touch(&adapter.identity.name)));
        self.observe(&passed.timings);
        let adapter = adapter.map(|adapter| adapter.identity.clone());
        let backbone = backbone.identity().clone();
        Ok(EmbedAnswer { adapter, backbone, embeddings, truncated, tokens, timings: passed.timings })
    }

    /// The smallest batch there is: an empty text through the active backbone.
    pub(super) fn tiny_batch(&self) -> Result<Batch> {
        let Backbone { resident, tokenizer, .. } = &*self.registry.backbones().active();
        let window = tokenizer.assemble(&tokenizer.encode(&TextInput::Text(String::new()))?, 0..0, None);
        let (ids, type_ids) = (window.ids.into(), window.type_ids.into());
        let work = Work::Embed(Through::Base(resident.clone()), Default::default());
        Ok(Batch { sequences: vec![BatchSequence { ids, type_ids, work }] })
    }

    /// A task that may be done: checked against its adapter, its names encoded.
    pub(super) async fn ready(&self, task: Task, lease: Lease, inputs: &[TextInput], asking: &Asking) -> Result<Ready> {
        check_task(&task, &lease.adapter, inputs)?;
        let (named, timings) = self.named(&task, &lease, asking).await?;
        Ok(Ready { task, lease, named, timings })
    }

    pub(super) fn target(&self, ready: &Ready) -> Target {
        let Lease { adapter, backbone, .. } = &ready.lease;
        let max_length = self.max_length(Some(adapter), backbone);
        let room = max_length.saturating_sub(backbone.tokenizer.special_tokens(false));
        let (long_text, stride) = match &ready.task {
            Task::Ner(parameters) => (parameters.long_text, ner_stride(parameters, room)),
            Task::Classify(parameters) => (parameters.long_text, CLASSIFY_OVERLAP_TOKENS.min(room / 4)),
        };
        let work = match &ready.named {
            Some(named) => Work::Compare(adapter.clone(), named.vectors.clone()),
            None => Work::Head(adapter.clone()),
        };
        let columns = match &ready.task {
            Task::Ner(_) => ready.named.as_ref().map_or(adapter.labels.len(), |named| named.names.len()),
            // One row a text, not one a token.
            Task::Classify(_) => 0,
        };
        Target { work, cut: Cut { max_length, long_text, stride }, columns }
    }

    /// Tokens of one sequence: what the adapter was trained with, the encoder can read and a batch can hold.
    pub(super) fn max_length(&self, adapter: Option<&ResidentAdapter>, backbone: &Backbone) -> usize {
        let encoder = backbone.max_length().min(self.line.batch_tokens_max);
        adapter.map_or(encoder, |adapter| adapter.card.max_length.min(encoder))
    }

    pub(super) fn decode(
        &self,
        ready: &Ready,
        texts: &[Text],
        computed: &[Computed],
        timings: Timings,
    ) -> Result<Answer> {
        let started = Instant::now();
        let many = texts.len() > 1;
        let (adapter, named) = (&ready.lease.adapter, ready.named.as_ref());
        let inputs = || texts.iter().zip(computed).enumerate();
        let predictions = match &ready.task {
            Task::Ner(parameters) => {
                let one = |(at, (text, computed))| {
                    decode::ner(text, computed, adapter, named, parameters).map_err(|error| at_input(error, at, many))
                };
                Predictions::Ner(inputs().map(one).collect::<Result<_>>()?)
            }
            Task::Classify(parameters) => {
                let one = |(at, (_, computed)): (usize, (&Text, &Computed))| {
                    decode::classify(computed, adapter, named, parameters).map_err(|error| at_input(error, at, many))
                };
                Predictions::Classify(inputs().map(one).collect::<Result<_>>()?)
            }
        };
        self.count(&adapter.identity.name, &predictions, named.is_some());
        let timings = Timings { decode: started.elapsed(), ..timings };
        let (adapter, backbone) = (adapter.identity.clone(), adapter.backbone.identity.clone());
        Ok(Answer { adapter, backbone, predictions, inputs: Vec::new(), timings })
    }

    /// Names that callers gave are counted as one label: series must not be theirs to make.
    fn count(&self, adapter: &AdapterName, predictions: &Predictions, named: bool) {
        let label = self.touch(adapter);
        let own = |label| if named { CALLERS_NAME } else { label };
        match predictions {
            Predictions::Ner(predictions) => predictions.iter().flat_map(|p| &p.entities).for_each(|entity| {
                let found = self.metrics.result_label(&label, own(decode::entity_type(entity)));
                self.metrics.entities.with_label_values(&[label.as_str(), found]).inc();
            }),
            Predictions::Classify(predictions) => predictions.iter().flat_map(|p| p.labels.first()).for_each(|best| {
                let best = self.metrics.result_label(&label, own(&best.label));
                self.metrics.predictions.with_label_values(&[label.as_str(), best]).inc();
            }),
        }
    }

    /// Notes that the adapter answered; its metric label.
    fn touch(&self, adapter: &AdapterName) -> String {
        let label = self.metrics.adapter_label(adapter.as_str());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        self.metrics.adapter_last_used_timestamp_seconds.with_label_values(&[&label]).set(now);
        label
    }

    pub(super) fn observe(&self, timings: &Timings) {
        let phase = |phase: Phase, took: Duration| {
            self.metrics.phase_duration.with_label_values(&[phase.as_str()]).observe(took.as_secs_f64());
        };
        phase(Phase::Queue, timings.queue);
        phase(Phase::Tokenize, timings.tokenize);
        phase(Phase::Compute, timings.compute);
        phase(Phase::Decode, timings.decode);
    }
}

/// The caller's stride. The default one is halved for an adapter whose sequences are too short for it.
fn ner_stride(parameters: &NerParameters, room: usize) -> usize {
    let is_default = parameters.stride == NerParameters::default().stride;
    if is_default && parameters.stride >= room { room / 2 } else { parameters.stride }
}

pub(super) fn check_inputs(inputs: &[TextInput]) -> Result<()> {
    if inputs.is_empty() { Err(Error::invalid("no inputs; at least one text is wanted")) } else { Ok(()) }
}

fn check_task(task: &Task, adapter: &ResidentAdapter, inputs: &[TextInput]) -> Result<()> {
    let identity = &adapter.identity;
    if task.family() != identity.family {
        return Err(Error::conflict(format!(
            "adapter {} is of family {}; this route needs one of family {}",
            identity.name,
            identity.family,
            task.family()
        )));
    }
    let name = &identity.name;
    match (adapter.card.head, task.candidate_labels()) {
        (HeadForm::Labels, None) => {}
        (HeadForm::Labels, Some(_)) => {
            return Err(Error::conflict(format!(
                "adapter {name}: this adapter's head does not compare with named concepts"
            )));
        }
        (HeadForm::Concepts | HeadForm::Similarity, Some(_)) => {}
        (HeadForm::Concepts | HeadForm::Similarity, None) => {
            return Err(Error::conflict(format!(
                "adapter {name}: this adapter's head has no labels of its own: it compares with names, and needs candidate_labels"
            )));
        }
    }
    let has_pair = inputs.iter().any(|input| matches!(input, TextInput::Pair { .. }));
    if has_pair && matches!(task, Task::Ner(_)) {
        return Err(Error::invalid("a text_pair was given; entities are found in single texts"));
    }
    Ok(())
}
