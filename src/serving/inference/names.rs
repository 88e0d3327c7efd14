//! Names that a request wants texts compared with: encoded by the adapter that will compare, once, and kept. What is not kept goes
//! through the queue like any text, and counts for admission.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hashlink::LruCache;

use crate::domain::{Digest, Error, LongText, Matrix, Result, TextInput};
use crate::engine::Work;
use crate::serving::flow::{Caller, Flow};
use crate::serving::inference::Inner;
use crate::serving::inference::pass::{Pass, Passed, Target};
use crate::serving::inference::read::at_input;
use crate::serving::inference::request::{Task, Timings};
use crate::serving::registry::Lease;
use crate::serving::scheduler::Progress;
use crate::text::{Cut, spoken_name};

/// Names kept as vectors, over all adapters: 12 MiB of a hidden size of 384.
const NAMES_KEPT_MAX: usize = 8192;

/// The names of a request, in its order.
pub(super) struct Named {
    pub(super) names: Vec<String>,
    /// One row each.
    pub(super) vectors: Arc<Matrix>,
}

/// How a request goes through the queue.
#[derive(Clone)]
pub(super) struct Asking {
    pub(super) deadline: Instant,
    pub(super) caller: Caller,
    pub(super) progress: Arc<Progress>,
}

impl Inner {
    /// None for a task that names nothing; and what encoding took.
    pub(super) async fn named(&self, task: &Task, lease: &Lease, asking: &Asking) -> Result<(Option<Named>, Timings)> {
        let Some(candidates) = task.candidate_labels() else { return Ok((None, Timings::default())) };
        let said: Vec<String> = candidates.as_slice().iter().map(|name| task.said(&spoken_name(name))).collect();
        let digest = &lease.adapter.identity.digest;
        let mut vectors = self.names.get(digest, &said);
        let missing: Vec<String> =
            said.iter().zip(&vectors).filter(|(_, kept)| kept.is_none()).map(|(text, _)| text.clone()).collect();
        let mut timings = Timings::default();
        if !missing.is_empty() {
            let (encoded, took) = self.encode(&missing, lease, asking).await?;
            timings = took;
            self.names.put(digest, &missing, &encoded);
            let mut encoded = encoded.into_iter();
            vectors.iter_mut().filter(|kept| kept.is_none()).for_each(|place| *place = encoded.next());
        }
        let vectors: Vec<Arc<[f32]>> = vectors.into_iter().flatten().collect();
        let columns = vectors.first().map_or(1, |vector| vector.len());
        let vectors =
            Arc::new(Matrix::new(columns, vectors.iter().flat_map(|vector| vector.iter().copied()).collect()));
        Ok((Some(Named { names: candidates.as_slice().to_vec(), vectors }), timings))
    }

    async fn encode(&self, texts: &[String], lease: &Lease, asking: &Asking) -> Result<(Vec<Arc<[f32]>>, Timings)> {
        let Lease { adapter, backbone, .. } = lease;
        let max_length = self.max_length(Some(adapter), backbone);
        let cut = Cut { max_length, long_text: LongText::Truncate, stride: 0 };
        let Asking { deadline, caller, progress } = asking.clone();
        let pass = Pass {
            tokenizer: backbone.tokenizer.clone(),
            inputs: texts.iter().cloned().map(TextInput::Text).collect(),
            targets: vec![Target { work: Work::Name(adapter.clone()), cut, columns: 0 }],
            flow: Flow::Adapter(adapter.identity.name.clone()),
            caller,
            deadline,
            progress,
        };
        let Passed { computed, timings, .. } = self.line.run(pass).await?;
        let computed = computed.into_iter().next().ok_or_else(|| Error::internal("a pass without a target"))??;
        let vector = |(at, one): (usize, super::decode::Computed)| {
            one.embedding().map(Arc::from).map_err(|error| at_input(error, at, true).context("candidate_labels"))
        };
        let vectors = computed.into_iter().enumerate().map(vector).collect::<Result<_>>()?;
        Ok((vectors, timings))
    }
}

/// Encoded names by adapter version and text; the least recently used go.
pub(super) struct Names(Mutex<LruCache<Key, Arc<[f32]>>>);

/// The digest of an adapter version, which says its backbone too; and the text.
type Key = (Arc<str>, Arc<str>);

impl Default for Names {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(NAMES_KEPT_MAX)))
    }
}

impl Names {
    fn get(&self, digest: &Digest, texts: &[String]) -> Vec<Option<Arc<[f32]>>> {
        let digest: Arc<str> = digest.as_str().into();
        let mut kept = self.kept();
        texts.iter().map(|text| kept.get(&(digest.clone(), text.as_str().into())).cloned()).collect()
    }

    fn put(&self, digest: &Digest, texts: &[String], vectors: &[Arc<[f32]>]) {
        let digest: Arc<str> = digest.as_str().into();
        let mut kept = self.kept();
        for (text, vector) in texts.iter().zip(vectors) {
            kept.insert((digest.clone(), text.as_str().into()), vector.clone());
        }
    }

    fn kept(&self) -> MutexGuard<'_, LruCache<Key, Arc<[f32]>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_for_each_version_and_those_used_longest_ago_go() {
        let (names, digest) = (Names::default(), |byte| Digest::from_sha256(&[byte; 32]));
        let text = |at: usize| vec![at.to_string()];
        let put = |at: usize| names.put(&digest(0), &text(at), &[vec![at as f32].into()]);
        let found = |version, at| names.get(&digest(version), &text(at))[0].as_ref().map(|vector| vector[0]);
        (0..NAMES_KEPT_MAX).for_each(put);
        assert_eq!((found(0, 0), found(1, 0)), (Some(0.0), None));
        put(NAMES_KEPT_MAX);
        assert_eq!((found(0, 0), found(0, 1), found(0, 2)), (Some(0.0), None, Some(2.0)));
    }
}
