//! One step: both micro-batches forward, compared, and back, on all threads; then one update of everything.
//!
//! A micro-batch is cut into as many shards as there are threads. Their forward passes stay in memory until the comparison, which
//! needs all of them, has said where the loss slopes: the gradient is that of the whole batch (as in GradCache, Gao et al. 2021,
//! without the second forward pass).

use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::{Error, Family, PreFinetuneHyperparameters, Result};
use crate::model::{Mode, SegmentAdapters, Sink, Traced, TrainableEncoder};
use crate::training::batches::{Draw, seed_of};
use crate::training::fine_tune::Control;
use crate::training::objective::{Loss, contrast};
use crate::training::pre_finetune::gradient::{Sinks, add};
use crate::training::pre_finetune::primary::Primary;
use crate::training::pre_finetune::read::Batch;
use crate::training::pre_finetune::shard::{Compared, Shard, Slopes, cut};
use crate::training::workers::{Run, Workers};

/// What a step computes with.
pub(super) struct Stepper<'a> {
    pub encoder: &'a TrainableEncoder,
    pub primaries: &'a [Primary],
    pub asked: &'a PreFinetuneHyperparameters,
    pub sinks: &'a Sinks,
    pub workers: Workers,
}

/// What a step found for one family.
pub(super) struct Found {
    /// In units of chance, before its weight.
    pub loss: f64,
    /// By the family's own variables.
    pub gradient: Vec<f32>,
}

/// A shard between its two passes.
struct UnderWay {
    family: usize,
    shard: Shard,
    /// Taken by its backward pass.
    traced: Mutex<Option<Traced>>,
    compared: Compared,
    /// The same through the backbone that training began with, where its similarities are to stay.
    taught: Compared,
}

impl Stepper<'_> {
    /// The gradients of `batches`, one for each primary; those by the backbone are left in the sinks, apart by family if
    /// `apart`.
    pub(super) fn gradients(&self, batches: &[Batch], step: u64, apart: bool) -> Run<Vec<Found>> {
        let mut shards = self.forward(batches, step, apart)?;
        let width = self.encoder.origin().config().hidden_size;
        let mut found = Vec::new();
        let mut slopes = Vec::new();
        for (index, (primary, batch)) in self.primaries.iter().zip(batches).enumerate() {
            let own = shards.iter_mut().filter(|shard| shard.family == index);
            let own = own.map(|shard| (std::mem::take(&mut shard.compared), std::mem::take(&mut shard.taught)));
            let (compared, taught): (Vec<Compared>, Vec<Compared>) = own.unzip();
            let (compared, taught) = (Compared::concat(compared), Compared::concat(taught));
            let mut asked = 0.0;
            let verdict = primary.judge(&compared, width, |logits| {
                let loss = batch.loss(logits);
                asked = loss.sum;
                self.preserved(primary.family, loss, logits, &taught).scaled(self.weight(primary.family))
            })?;
            found.push(Found { loss: asked, gradient: verdict.gradient });
            slopes.push(verdict.slopes);
        }
        let lora = self.backward(&shards, &slopes, width)?;
        for (shard, gradient) in shards.iter().zip(lora) {
            add(&mut found[shard.family].gradient, &gradient);
        }
        Ok(found)
    }

    fn weight(&self, family: Family) -> f64 {
        match family {
            Family::Ner => self.asked.ner_weight,
            Family::Classify => self.asked.classify_weight,
        }
    }

    /// The loss, and how far the similarities have moved from what they were, as much as it counts.
    fn preserved(&self, family: Family, loss: Loss, logits: &[f32], taught: &Compared) -> Loss {
        if !self.preserves(family) {
            return loss;
        }
        let width = self.encoder.origin().config().hidden_size;
        let teacher = taught.cosines(width, self.asked.temperature as f32);
        let drift = contrast::drift(logits, &teacher, taught.rows.len() / width);
        loss.plus(&drift.scaled(self.asked.preserve_weight))
    }

    fn preserves(&self, family: Family) -> bool {
        family == Family::Classify && self.asked.preserve_weight > 0.0
    }

    /// All shards forward; thread `t` takes the t-th of each family.
    fn forward(&self, batches: &[Batch], step: u64, apart: bool) -> Run<Vec<UnderWay>> {
        let threads = self.workers.0.max(1);
        let mut work: Vec<Vec<(usize, Shard)>> = (0..threads).map(|_| Vec::new()).collect();
        for (family, batch) in batches.iter().enumerate() {
            cut(batch, threads).into_iter().zip(&mut work).for_each(|(shard, work)| work.push((family, shard)));
        }
        let work: Vec<Mutex<Vec<(usize, Shard)>>> = work.into_iter().map(Mutex::new).collect();
        let done = self.workers.map(threads, &mut || Control::Continue, |thread| {
            let shards = std::mem::take(&mut *work[thread].lock().unwrap_or_else(PoisonError::into_inner));
            let run = |(family, shard)| self.trace(family, shard, step, self.sinks.of(thread, family, apart));
            shards.into_iter().map(run).collect::<Result<Vec<_>>>()
        })?;
        let mut shards: Vec<UnderWay> = done.into_iter().flatten().collect();
        // stable: each family's shards stay in the order of its batch
        shards.sort_by_key(|shard| shard.family);
        Ok(shards)
    }

    fn trace(&self, family: usize, shard: Shard, step: u64, sink: &Arc<Sink>) -> Result<UnderWay> {
        let primary = &self.primaries[family];
        let dropout = self.asked.dropout as f32;
        let mode = Mode::Train { dropout, seed: seed_of(self.asked.seed, Draw::Dropout, [step, family as u64]) };
        let traced = self.encoder.trace(&shard.packed, primary.lora(), mode, Some(sink))?;
        let hidden = traced.hidden().flatten_all()?.to_vec1::<f32>()?;
        let compared = shard.gather(&hidden, self.encoder.origin().config().hidden_size);
        let taught = if self.preserves(primary.family) { self.taught(&shard)? } else { Compared::default() };
        Ok(UnderWay { family, shard, traced: Mutex::new(Some(traced)), compared, taught })
    }

    fn taught(&self, shard: &Shard) -> Result<Compared> {
        let (origin, input) = (self.encoder.origin(), &shard.packed);
        let layers = 0..origin.config().layers;
        let hidden =
            origin.forward(&origin.embed(input)?, &input.bounds, &SegmentAdapters::default(), layers, Mode::Eval)?;
        Ok(shard.gather(&hidden.flatten_all()?.to_vec1::<f32>()?, origin.config().hidden_size))
    }

    /// All shards backward; the gradients of LoRA, shard by shard.
    fn backward(&self, shards: &[UnderWay], slopes: &[Compared], width: usize) -> Run<Vec<Vec<f32>>> {
        let mut left: Vec<Slopes<'_>> = slopes.iter().map(Slopes::of).collect();
        let slopes: Vec<Mutex<Vec<f32>>> =
            shards.iter().map(|under| Mutex::new(under.shard.scatter(&mut left[under.family], width))).collect();
        let threads = self.workers.0.max(1);
        let of_thread = |thread: usize| (0..shards.len()).filter(move |&at| self.thread_of(shards, at) == thread);
        let done = self.workers.map(threads, &mut || Control::Continue, |thread| {
            let back = |at: usize| {
                let traced = shards[at].traced.lock().unwrap_or_else(PoisonError::into_inner).take();
                let slope = std::mem::take(&mut *slopes[at].lock().unwrap_or_else(PoisonError::into_inner));
                let traced = traced.ok_or_else(|| Error::internal("a shard ran back twice"))?;
                let gradients = traced.backward(slope)?;
                Ok((at, self.primaries[shards[at].family].lora_gradient(&gradients)?))
            };
            of_thread(thread).map(back).collect::<Result<Vec<_>>>()
        })?;
        let mut lora: Vec<(usize, Vec<f32>)> = done.into_iter().flatten().collect();
        lora.sort_by_key(|(at, _)| *at);
        Ok(lora.into_iter().map(|(_, gradient)| gradient).collect())
    }

    /// The place of shard `at` among its family's, which is the thread whose sink it adds to.
    fn thread_of(&self, shards: &[UnderWay], at: usize) -> usize {
        shards[..at].iter().filter(|other| other.family == shards[at].family).count()
    }
}
