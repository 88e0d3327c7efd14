//! Activations below the lowest adapted layer, kept between passes, so that a text asked of one adapter after the other goes
//! through the layers that none of them touches once. Bounded in bytes; the least recently used go first.
//!
//! Rows of a pass do not depend on each other, so what is kept is bit for bit what would be computed again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashlink::LruCache;

use crate::domain::Digest;
use crate::engine::BatchSequence;
use crate::engine::plan::TextKey;

/// What a kept text weighs beside its activations: keys and links, in bytes; rounded up.
const ENTRY_BYTES: usize = 256;

/// What decides the hidden states of a text at a layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    backbone: Digest,
    precision: &'static str,
    layer: usize,
    ids: Arc<[u32]>,
    type_ids: Arc<[u32]>,
}

/// Row-major (tokens, hidden), before the layer they are kept for.
pub(super) type Activations = Arc<[f32]>;

/// Shared by the engine's threads.
pub(super) struct PrefixCache {
    bytes_max: usize,
    kept: Mutex<Kept>,
}

struct Kept {
    texts: LruCache<Key, Activations>,
    bytes: usize,
}

/// Sequences of one backbone that begin their pass alike.
pub(super) struct Group<'a> {
    /// Their places among those asked about.
    pub(super) places: Vec<usize>,
    pub(super) beginning: Beginning<'a>,
}

/// Where a pass begins: at the embedding, or at `layer` with what was kept of its texts.
#[derive(Default)]
pub(super) struct Beginning<'a> {
    pub(super) layer: usize,
    pub(super) kept: HashMap<TextKey<'a>, Activations>,
}

impl PrefixCache {
    /// None keeps nothing: 0 bytes.
    pub(super) fn new(bytes_max: usize) -> Option<Self> {
        let kept = Mutex::new(Kept { texts: LruCache::new_unbounded(), bytes: 0 });
        (bytes_max > 0).then_some(Self { bytes_max, kept })
    }

    /// `sequences` by where they can begin; `layers` is what the encoder has.
    pub(super) fn groups<'a>(&self, sequences: &'a [BatchSequence], layers: usize) -> Vec<Group<'a>> {
        let mut groups: Vec<Group<'a>> = Vec::new();
        for (at, sequence) in sequences.iter().enumerate() {
            let layer = sequence.work.first_own_layer(layers);
            let found = self.find(sequence, layer);
            let layer = if found.is_some() { layer } else { 0 };
            let at_layer = groups.iter().position(|group| group.beginning.layer == layer);
            let group = at_layer.unwrap_or_else(|| {
                let beginning = Beginning { layer, kept: HashMap::new() };
                groups.push(Group { places: Vec::new(), beginning });
                groups.len() - 1
            });
            groups[group].places.push(at);
            found.into_iter().for_each(|rows| {
                groups[group].beginning.kept.insert((&sequence.ids, &sequence.type_ids), rows);
            });
        }
        groups
    }

    fn find(&self, sequence: &BatchSequence, layer: usize) -> Option<Activations> {
        (layer > 0).then(|| self.lock().texts.get(&key(sequence, layer)).cloned()).flatten()
    }

    /// Keeps `rows` of a text before `layer`; too many for the bound are not kept.
    pub(super) fn keep(&self, sequence: &BatchSequence, layer: usize, rows: Vec<f32>) {
        let weight = weight(&rows);
        if weight > self.bytes_max {
            return;
        }
        let mut kept = self.lock();
        let replaced = kept.texts.insert(key(sequence, layer), rows.into());
        kept.bytes += weight;
        kept.bytes -= replaced.map_or(0, |rows| self::weight(&rows));
        while kept.bytes > self.bytes_max {
            let Some((_, oldest)) = kept.texts.remove_lru() else { break };
            kept.bytes -= self::weight(&oldest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(sequence: &BatchSequence, layer: usize) -> Key {
    let backbone = sequence.work.backbone().identity.fingerprint.clone();
    let precision = sequence.work.encoder().precision();
    Key { backbone, precision, layer, ids: sequence.ids.clone(), type_ids: sequence.type_ids.clone() }
}

fn weight(rows: &[f32]) -> usize {
    size_of_val(rows) + ENTRY_BYTES
}
