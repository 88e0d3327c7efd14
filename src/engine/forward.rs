//! One forward pass over a mixed batch: embed, the plan's stages, then each head on its own segment.

use std::ops::Range;

use candle_core::{DType, Tensor};

use crate::domain::{EmbedParameters, Error, Matrix, Pooling, Result};
use crate::engine::plan::{Layout, Plan, TextKey};
use crate::engine::prefix::{Beginning, PrefixCache};
use crate::engine::{BatchOutput, BatchSequence, Output, ResidentAdapter, Work};
use crate::model::{ConceptHead, Encoder, HeadKind, Mode};

/// Below it a vector has no direction to keep; PyTorch's `normalize` uses the same.
const NORM_MIN: f32 = 1e-12;

/// Answers in the order of `sequences`. An error is of the pass as a whole; a sequence's own failure is in its answer.
pub(super) fn forward(
    encoder: &Encoder,
    sequences: &[BatchSequence],
    cache: Option<&PrefixCache>,
) -> Result<BatchOutput> {
    let Some(cache) = cache else { return forward_from(encoder, sequences, &Beginning::default(), None) };
    let mut outputs: Vec<Result<Output>> = vec![Err(Error::internal("a sequence of no group")); sequences.len()];
    let mut prefix_tokens_saved = 0;
    for group in cache.groups(sequences, encoder.config().layers) {
        let own: Vec<BatchSequence> = group.places.iter().map(|&at| sequences[at].clone()).collect();
        let answers = forward_from(encoder, &own, &group.beginning, Some(cache))?;
        prefix_tokens_saved += answers.prefix_tokens_saved;
        group.places.into_iter().zip(answers.outputs).for_each(|(at, output)| outputs[at] = output);
    }
    Ok(BatchOutput { outputs, prefix_tokens_saved })
}

/// The same for sequences that begin alike.
fn forward_from(
    encoder: &Encoder,
    sequences: &[BatchSequence],
    beginning: &Beginning<'_>,
    cache: Option<&PrefixCache>,
) -> Result<BatchOutput> {
    let plan = Plan::new(sequences, encoder.config().layers);
    let layout = plan.answers();
    let keep = cache.map(|cache| {
        move |text: TextKey<'_>, layer: usize, rows: &Tensor| -> Result<()> {
            let same = sequences.iter().find(|sequence| (&*sequence.ids, &*sequence.type_ids) == text);
            if let Some(sequence) = same {
                cache.keep(sequence, layer, to_floats(rows)?);
            }
            Ok(())
        }
    });
    let keep = keep.as_ref().map(|keep| keep as Keep<'_>);
    let (hidden, computed) = run_stages(encoder, &plan, &layout, beginning, keep)?;
    let logits = all_logits(&plan, &layout, &hidden, &wants_head(&plan, sequences));
    let output = |(sequence, &branch): (&BatchSequence, &usize)| match &sequence.work {
        Work::Head(_) => logits[branch].clone().unwrap_or_else(|| Err(Error::internal("a head was not run"))),
        Work::Embed(_, parameters) => embedding(&hidden, lane(&layout, branch), parameters),
        Work::Name(adapter) => named(adapter, &hidden, lane(&layout, branch)),
        Work::Compare(adapter, names) => compared(adapter, names, &hidden, lane(&layout, branch)),
    };
    let outputs = sequences.iter().zip(&plan.branch_of).map(|pair| output(pair).and_then(|o| finite(pair.0, o)));
    let asked: usize = sequences.iter().map(|sequence| sequence.ids.len()).sum();
    Ok(BatchOutput { outputs: outputs.collect(), prefix_tokens_saved: asked.saturating_sub(computed) })
}

/// Takes a text's rows, which its adapters' layers begin with.
type Keep<'k> = &'k dyn Fn(TextKey<'_>, usize, &Tensor) -> Result<()>;

/// Hidden states of all branches, (tokens, hidden), and how many tokens the first layer computed.
fn run_stages(
    encoder: &Encoder,
    plan: &Plan<'_>,
    answers: &Layout,
    beginning: &Beginning<'_>,
    keep: Option<Keep<'_>>,
) -> Result<(Tensor, usize)> {
    let is_kept = beginning.layer > 0;
    let mut hidden = if is_kept { kept(encoder, plan, beginning)? } else { encoder.embed(&plan.packed())? };
    let mut layout = plan.trunks();
    let mut computed = is_kept.then_some(0);
    for stage in plan.stages(beginning.layer) {
        hidden = rearrange(hidden, plan.moves(&layout, &stage.layout))?;
        layout = stage.layout;
        if stage.layers.start == 0 {
            hidden = with_own_embeddings(encoder, plan, &layout, hidden)?;
        }
        computed.get_or_insert(layout.tokens());
        let end = stage.layers.end;
        hidden = encoder.forward(&hidden, &layout.bounds, &plan.segments(&layout), stage.layers, Mode::Eval)?;
        let Some(keep) = keep else { continue };
        for (text, rows) in plan.trunks_ending(&layout, end) {
            keep(plan.texts[text], end, &hidden.narrow(0, rows.start, rows.len())?)?;
        }
    }
    Ok((rearrange(hidden, plan.moves(&layout, answers))?, computed.unwrap_or(0)))
}

/// `hidden` with the embeddings of branches whose adapter has a projection of its own.
fn with_own_embeddings(encoder: &Encoder, plan: &Plan<'_>, layout: &Layout, hidden: Tensor) -> Result<Tensor> {
    let mut hidden = hidden;
    for (rows, adapter, packed) in plan.own_embeddings(layout) {
        let own = encoder.embed_for(&packed, &adapter.lora)?;
        hidden = hidden.slice_scatter(&own, 0, rows.start)?;
    }
    Ok(hidden)
}

/// What was kept of the plan's texts, end to end.
fn kept(encoder: &Encoder, plan: &Plan<'_>, beginning: &Beginning<'_>) -> Result<Tensor> {
    let width = encoder.config().hidden_size;
    let mut rows = Vec::new();
    for text in &plan.texts {
        let found = beginning.kept.get(text).ok_or_else(|| Error::internal("a text of which nothing was kept"))?;
        rows.extend_from_slice(found);
    }
    Ok(Tensor::from_vec(rows, (plan.trunks().tokens(), width), encoder.device())?)
}

fn rearrange(hidden: Tensor, rows: Option<Vec<u32>>) -> Result<Tensor> {
    let Some(rows) = rows else { return Ok(hidden) };
    let count = rows.len();
    let rows = Tensor::from_vec(rows, count, hidden.device())?;
    Ok(hidden.index_select(&rows, 0)?)
}

/// For each branch whether a sequence wants its logits.
fn wants_head(plan: &Plan<'_>, sequences: &[BatchSequence]) -> Vec<bool> {
    let mut wanted = vec![false; plan.branches.len()];
    let heads = sequences.iter().zip(&plan.branch_of).filter(|(s, _)| matches!(s.work, Work::Head(_)));
    heads.for_each(|(_, &branch)| wanted[branch] = true);
    wanted
}

/// Logits of each branch; a head that fails, fails for its own branches only.
fn all_logits(plan: &Plan<'_>, layout: &Layout, hidden: &Tensor, wanted: &[bool]) -> Vec<Option<Result<Output>>> {
    let mut logits = vec![None; plan.branches.len()];
    for (run, adapter) in plan.adapters() {
        if !wanted[run.clone()].contains(&true) {
            continue;
        }
        match head_logits(adapter, hidden, &layout.bounds[run.start..=run.end]) {
            Ok(matrices) => run.zip(matrices).for_each(|(at, matrix)| logits[at] = Some(Ok(Output::Logits(matrix)))),
            Err(error) => run.for_each(|at| logits[at] = Some(Err(error.clone()))),
        }
    }
    logits
}

/// One matrix a sequence of the adapter's segment; `bounds` as in the whole batch.
fn head_logits(adapter: &ResidentAdapter, hidden: &Tensor, bounds: &[usize]) -> Result<Vec<Matrix>> {
    let start = bounds[0];
    let own: Vec<usize> = bounds.iter().map(|bound| bound - start).collect();
    let segment = hidden.narrow(0, start, own[own.len() - 1])?;
    let head = &adapter.head;
    let logits = head.forward(&segment, &own, Mode::Eval)?;
    let labels = logits.dim(1)?;
    let values = to_floats(&logits)?;
    let rows_of = |i: usize| match head.kind() {
        HeadKind::Token => own[i]..own[i + 1],
        HeadKind::Sequence => i..i + 1,
    };
    let matrix = |rows: Range<usize>| Matrix::new(labels, values[rows.start * labels..rows.end * labels].to_vec());
    Ok((0..own.len() - 1).map(rows_of).map(matrix).collect())
}

fn embedding(hidden: &Tensor, tokens: Range<usize>, parameters: &EmbedParameters) -> Result<Output> {
    let rows = match parameters.pooling {
        Pooling::Cls => tokens.start..tokens.start + 1,
        Pooling::Mean => tokens,
    };
    let pooled = hidden.narrow(0, rows.start, rows.len())?.mean(0)?;
    let mut vector = to_floats(&pooled)?;
    if parameters.normalize {
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(NORM_MIN);
        vector.iter_mut().for_each(|x| *x /= norm);
    }
    Ok(Output::Embedding(vector))
}

/// The mean of a name's hidden states, as the head compares with it.
fn named(adapter: &ResidentAdapter, hidden: &Tensor, tokens: Range<usize>) -> Result<Output> {
    let pooled = hidden.narrow(0, tokens.start, tokens.len())?.mean_keepdim(0)?;
    Ok(Output::Embedding(to_floats(&concept_head(adapter)?.concepts(&pooled)?)?))
}

/// One row a token or one in all, as the head is; one column a name.
fn compared(adapter: &ResidentAdapter, names: &Matrix, hidden: &Tensor, tokens: Range<usize>) -> Result<Output> {
    let names = Tensor::from_slice(names.data(), (names.rows(), names.columns()), hidden.device())?;
    let own = hidden.narrow(0, tokens.start, tokens.len())?;
    let logits = concept_head(adapter)?.logits(&own, &[0, tokens.len()], &names)?;
    Ok(Output::Logits(Matrix::new(logits.dim(1)?, to_floats(&logits)?)))
}

fn concept_head(adapter: &ResidentAdapter) -> Result<&ConceptHead> {
    adapter.head.concepts().ok_or_else(|| Error::internal("names for a head that has rows of its own"))
}

fn to_floats(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

fn lane(layout: &Layout, at: usize) -> Range<usize> {
    layout.bounds[at]..layout.bounds[at + 1]
}

/// Refuses NaN and infinities: they would reach the client as nonsense, or as invalid JSON.
fn finite(sequence: &BatchSequence, output: Output) -> Result<Output> {
    let values = match &output {
        Output::Logits(matrix) => matrix.data(),
        Output::Embedding(vector) => vector,
    };
    if values.iter().all(|value| value.is_finite()) {
        return Ok(output);
    }
    let who = sequence.work.describe();
    Err(Error::unprocessable(format!("{who} computed numbers that are not finite; finite scores are wanted")))
}
