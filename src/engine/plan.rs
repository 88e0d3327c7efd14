//! How a mixed batch becomes one pass: equal texts share a trunk until the first layer that an adapter of theirs changes. Pure.
//!
//! A *lane* is a run of tokens in the packed hidden states: the trunk of a distinct text, or a branch, which is one text
//! through one adapter. A branch leaves its trunk at the adapter's lowest layer (its *fork*); below, the trunk is computed once for all.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::engine::{BatchSequence, ResidentAdapter};
use crate::model::{LoraWeights, Packed, SegmentAdapters};

/// The least of a sequence that decides its hidden states.
pub(super) type TextKey<'a> = (&'a [u32], &'a [u32]);

/// One text through one adapter (None: the base).
pub(super) struct Branch<'a> {
    text: usize,
    pub(super) adapter: Option<&'a Arc<ResidentAdapter>>,
    fork: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Lane {
    Trunk(usize),
    Branch(usize),
}

/// Lanes side by side; lane `i` is tokens `bounds[i]..bounds[i + 1]`.
pub(super) struct Layout {
    lanes: Vec<Lane>,
    pub(super) bounds: Vec<usize>,
}

impl Layout {
    pub(super) fn tokens(&self) -> usize {
        self.bounds.last().copied().unwrap_or(0)
    }
}

/// Layers that run over the same lanes.
pub(super) struct Stage {
    pub(super) layout: Layout,
    pub(super) layers: Range<usize>,
}

pub(super) struct Plan<'a> {
    pub(super) texts: Vec<TextKey<'a>>,
    /// Distinct, those of one adapter side by side.
    pub(super) branches: Vec<Branch<'a>>,
    /// Sequence → branch.
    pub(super) branch_of: Vec<usize>,
    layers: usize,
}

impl<'a> Plan<'a> {
    /// `layers`: of the encoder.
    pub(super) fn new(sequences: &'a [BatchSequence], layers: usize) -> Self {
        let mut plan = Self { texts: Vec::new(), branches: Vec::new(), branch_of: vec![0; sequences.len()], layers };
        let mut text_of = HashMap::new();
        let mut branch_at = HashMap::new();
        for at in by_adapter(sequences) {
            let sequence = &sequences[at];
            let key: TextKey<'a> = (&sequence.ids, &sequence.type_ids);
            let text = *text_of.entry(key).or_insert_with(|| push(&mut plan.texts, key));
            let adapter = sequence.work.adapter();
            let fork = sequence.work.first_own_layer(layers);
            plan.branch_of[at] = *branch_at
                .entry((address(adapter), text))
                .or_insert_with(|| push(&mut plan.branches, Branch { text, adapter, fork }));
        }
        plan
    }

    /// The distinct texts, end to end: what the embedding reads.
    pub(super) fn packed(&self) -> Packed {
        Packed::new(self.texts.iter().copied())
    }

    /// One trunk a text.
    pub(super) fn trunks(&self) -> Layout {
        self.layout((0..self.texts.len()).map(Lane::Trunk).collect())
    }

    /// All branches in order: what heads read.
    pub(super) fn answers(&self) -> Layout {
        self.layout((0..self.branches.len()).map(Lane::Branch).collect())
    }

    /// The pass, bottom up from layer `first`, below which nothing forks: a new stage wherever a branch does.
    pub(super) fn stages(&self, first: usize) -> Vec<Stage> {
        let mut starts: Vec<usize> = self.branches.iter().map(|b| b.fork).collect();
        starts.push(first);
        starts.retain(|&start| start < self.layers);
        starts.sort_unstable();
        starts.dedup();
        let ends = starts.iter().skip(1).copied().chain([self.layers]);
        starts
            .iter()
            .zip(ends)
            .map(|(&start, end)| Stage { layout: self.lanes_from(start), layers: start..end })
            .collect()
    }

    /// Trunks still needed at layer `start`, then the branches that have forked, which stay sorted by adapter.
    fn lanes_from(&self, start: usize) -> Layout {
        let mut needed = vec![false; self.texts.len()];
        self.branches.iter().filter(|b| b.fork > start).for_each(|b| needed[b.text] = true);
        let trunks = (0..self.texts.len()).filter(|&text| needed[text]).map(Lane::Trunk);
        let forked = (0..self.branches.len()).filter(|&b| self.branches[b].fork <= start).map(Lane::Branch);
        self.layout(trunks.chain(forked).collect())
    }

    fn layout(&self, lanes: Vec<Lane>) -> Layout {
        let mut bounds = vec![0];
        let mut end = 0;
        for &lane in &lanes {
            end += self.texts[self.text(lane)].0.len();
            bounds.push(end);
        }
        Layout { lanes, bounds }
    }

    fn text(&self, lane: Lane) -> usize {
        match lane {
            Lane::Trunk(text) => text,
            Lane::Branch(branch) => self.branches[branch].text,
        }
    }

    /// Texts that leave the base before layer `end`, each with its tokens in `layout`, which the layers below computed.
    pub(super) fn trunks_ending(&self, layout: &Layout, end: usize) -> Vec<(usize, Range<usize>)> {
        let forks = |text: usize| self.branches.iter().any(|branch| branch.text == text && branch.fork == end);
        let lanes = layout.lanes.iter().zip(layout.bounds.windows(2));
        let trunk = |(lane, bounds): (&Lane, &[usize])| match lane {
            Lane::Trunk(text) if forks(*text) => Some((*text, bounds[0]..bounds[1])),
            _ => None,
        };
        lanes.filter_map(trunk).collect()
    }

    /// For each token of `to`, its row in `from`; None if nothing moves. A new branch starts as a copy of its trunk.
    pub(super) fn moves(&self, from: &Layout, to: &Layout) -> Option<Vec<u32>> {
        let at: HashMap<Lane, usize> = from.lanes.iter().zip(&from.bounds).map(|(&lane, &at)| (lane, at)).collect();
        let mut rows = Vec::with_capacity(to.tokens());
        for (&lane, bounds) in to.lanes.iter().zip(to.bounds.windows(2)) {
            let start = at.get(&lane).or_else(|| at.get(&Lane::Trunk(self.text(lane)))).copied().unwrap_or(0);
            rows.extend((start..start + bounds[1] - bounds[0]).map(|row| row as u32));
        }
        let stays = rows.len() == from.tokens() && rows.iter().enumerate().all(|(i, &row)| i == row as usize);
        (!stays).then_some(rows)
    }

    /// Whose deltas apply to which tokens of `layout`.
    pub(super) fn segments(&self, layout: &Layout) -> SegmentAdapters<'a> {
        let mut segments: Vec<(Range<usize>, &'a LoraWeights)> = Vec::new();
        for (&lane, bounds) in layout.lanes.iter().zip(layout.bounds.windows(2)) {
            let Lane::Branch(branch) = lane else { continue };
            let Some(adapter) = self.branches[branch].adapter else { continue };
            match segments.last_mut() {
                Some((range, lora)) if std::ptr::eq(*lora, &adapter.lora) => range.end = bounds[1],
                _ => segments.push((bounds[0]..bounds[1], &adapter.lora)),
            }
        }
        SegmentAdapters(segments)
    }

    /// Branches of `layout` whose adapter changes how texts are embedded: their tokens, the adapter, and what it embeds.
    pub(super) fn own_embeddings(&self, layout: &Layout) -> Vec<(Range<usize>, &'a Arc<ResidentAdapter>, Packed)> {
        let lanes = layout.lanes.iter().zip(layout.bounds.windows(2));
        let own = |(lane, bounds): (&Lane, &[usize])| {
            let Lane::Branch(branch) = *lane else { return None };
            let adapter = self.branches[branch].adapter.filter(|adapter| adapter.lora.projection().is_some())?;
            Some((bounds[0]..bounds[1], adapter, Packed::new([self.texts[self.branches[branch].text]])))
        };
        lanes.filter_map(own).collect()
    }

    /// Runs of branches with the same adapter.
    pub(super) fn adapters(&self) -> Vec<(Range<usize>, &'a Arc<ResidentAdapter>)> {
        let mut runs: Vec<(Range<usize>, &'a Arc<ResidentAdapter>)> = Vec::new();
        for (at, branch) in self.branches.iter().enumerate() {
            let Some(adapter) = branch.adapter else { continue };
            match runs.last_mut() {
                Some((run, last)) if Arc::ptr_eq(last, adapter) => run.end = at + 1,
                _ => runs.push((at..at + 1, adapter)),
            }
        }
        runs
    }
}

/// Indices of `sequences`, those of one adapter side by side; inside, the batch's own order.
fn by_adapter(sequences: &[BatchSequence]) -> Vec<usize> {
    let mut first_seen = HashMap::new();
    let rank: Vec<usize> = sequences
        .iter()
        .map(|sequence| {
            let next = first_seen.len();
            *first_seen.entry(address(sequence.work.adapter())).or_insert(next)
        })
        .collect();
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&at| rank[at]);
    order
}

/// Identity of a resident version while the batch holds it.
fn address(adapter: Option<&Arc<ResidentAdapter>>) -> usize {
    adapter.map_or(0, |adapter| Arc::as_ptr(adapter).addr())
}

fn push<T>(list: &mut Vec<T>, item: T) -> usize {
    list.push(item);
    list.len() - 1
}
