//! Whether an adapter answers in the precision that serves it as it does in f32. Weights that are far from usual lose more to bf16 than
//! scores can bear; such an adapter is computed in f32, it alone.

use std::sync::Arc;

use tracing::warn;

use crate::adapter::AdapterBundle;
use crate::domain::{AdapterIdentity, Error, HeadForm, Matrix, Result};
use crate::engine::worker::answer;
use crate::engine::{BatchSequence, Output, ResidentAdapter, ResidentBackbone, Work};
use crate::model::kernels::give_back_memory;

/// How far a logit may be from the same in f32. Those of adapters trained as usual are a few hundredths apart; a quarter moves a
/// probability by 0.06 at most.
pub const LOGITS_APART_MAX: f32 = 0.25;

/// A text as the encoder reads it: ids and segments.
pub type Sample = (Arc<[u32]>, Arc<[u32]>);

impl ResidentBackbone {
    /// [`ResidentBackbone::admit_adapter`], in f32 if its answers to `samples` are not those of f32 in the precision of this backbone.
    pub fn admit_agreeing(
        self: &Arc<Self>,
        identity: AdapterIdentity,
        bundle: AdapterBundle,
        samples: &[Sample],
    ) -> Result<Arc<ResidentAdapter>> {
        if self.encoder().precision() == "f32" {
            return self.admit_adapter(identity, bundle);
        }
        let name = identity.name.clone();
        let adapter = self.admit_adapter(identity.clone(), bundle.clone())?;
        let exact = Arc::new(ResidentAdapter::exact(identity, bundle, self)?);
        let apart = apart(&adapter, &exact, samples)?;
        if apart <= LOGITS_APART_MAX {
            drop(exact);
            give_back_memory();
            return Ok(adapter);
        }
        let precision = self.encoder().precision();
        warn!(adapter = %name, apart, precision, "the adapter's logits are not those of f32: it is served in f32");
        Ok(exact)
    }
}

/// The greatest difference of a logit between two forms of one adapter; infinite where one has no number.
fn apart(a: &Arc<ResidentAdapter>, b: &Arc<ResidentAdapter>, samples: &[Sample]) -> Result<f32> {
    let (a, b) = (logits(a, samples)?, logits(b, samples)?);
    Ok(a.iter()
        .zip(&b)
        .map(|(a, b)| (a - b).abs())
        .map(|d| if d.is_nan() { f32::INFINITY } else { d })
        .fold(0.0, f32::max))
}

/// Of all samples, end to end. A head that compares with names compares with the first sample's.
fn logits(adapter: &Arc<ResidentAdapter>, samples: &[Sample]) -> Result<Vec<f32>> {
    let work = match (adapter.head.form(), samples.first()) {
        (HeadForm::Labels, _) | (_, None) => Work::Head(adapter.clone()),
        (HeadForm::Concepts | HeadForm::Similarity, Some(first)) => {
            let name = run(first, Work::Name(adapter.clone()))?;
            Work::Compare(adapter.clone(), Arc::new(Matrix::new(name.len(), name)))
        }
    };
    let all = samples.iter().map(|sample| run(sample, work.clone())).collect::<Result<Vec<_>>>()?;
    Ok(all.concat())
}

fn run((ids, type_ids): &Sample, work: Work) -> Result<Vec<f32>> {
    let sequence = BatchSequence { ids: ids.clone(), type_ids: type_ids.clone(), work };
    match answer(&[sequence], None).outputs.into_iter().next() {
        Some(Ok(Output::Logits(matrix))) => Ok(matrix.data().to_vec()),
        Some(Ok(Output::Embedding(vector))) => Ok(vector),
        Some(Err(error)) => Err(error),
        None => Err(Error::internal("a pass without an answer")),
    }
}
