//! A backbone on the device: the encoder that adapters made for it run on. Dropping the last handle gives its memory back.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::adapter::AdapterBundle;
use crate::domain::{AdapterIdentity, BackboneIdentity, EmbedParameters, Error, HeadForm, Matrix, Result};
use crate::engine::worker::answer;
use crate::engine::{BatchSequence, Output, ResidentAdapter, Through, Work};
use crate::model::Encoder;
use crate::model::kernels::give_back_memory;

/// A text no tokenizer is needed for: every vocabulary has a token 0.
const TRIAL_IDS: [u32; 4] = [0; 4];

pub struct ResidentBackbone {
    pub identity: Arc<BackboneIdentity>,
    encoder: Arc<Encoder>,
    /// The same network in f32, for as long as an adapter needs it or is compared with it.
    exact: Mutex<Weak<Encoder>>,
    /// Declared last, dropped last.
    _then: GiveBack,
}

/// What an encoder leaves is given back to the system when it goes, whoever held it last.
struct GiveBack;

impl Drop for GiveBack {
    fn drop(&mut self) {
        give_back_memory();
    }
}

impl ResidentBackbone {
    /// It has run once, with finite numbers, when this returns. Blocks; the pass runs on the caller's thread, so that no
    /// request waits for it.
    pub fn admit(identity: BackboneIdentity, encoder: Arc<Encoder>) -> Result<Arc<Self>> {
        let backbone =
            Arc::new(Self { identity: Arc::new(identity), encoder, exact: Mutex::default(), _then: GiveBack });
        backbone.try_out(Work::Embed(Through::Base(backbone.clone()), EmbedParameters::default()))?;
        Ok(backbone)
    }

    /// For training and for reading adapters made for it.
    pub fn encoder(&self) -> &Arc<Encoder> {
        &self.encoder
    }

    /// The network in f32, whatever it serves in. Its layers take memory of their own, its embeddings do not; who drops it last gives
    /// that memory back.
    pub(super) fn exact(&self) -> Result<Arc<Encoder>> {
        let mut exact = self.exact.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(exact) = exact.upgrade() {
            return Ok(exact);
        }
        let made = Arc::new(self.encoder.in_f32()?);
        *exact = Arc::downgrade(&made);
        Ok(made)
    }

    /// Makes an adapter resident, in the form this backbone computes with; it has run once, like [`ResidentBackbone::admit`].
    pub fn admit_adapter(
        self: &Arc<Self>,
        identity: AdapterIdentity,
        bundle: AdapterBundle,
    ) -> Result<Arc<ResidentAdapter>> {
        let adapter = Arc::new(ResidentAdapter::new(identity, bundle, self)?);
        if adapter.head.form() == HeadForm::Labels {
            self.try_out(Work::Head(adapter.clone()))?;
        } else if let Output::Embedding(name) = self.try_out(Work::Name(adapter.clone()))? {
            self.try_out(Work::Compare(adapter.clone(), Arc::new(Matrix::new(name.len(), name))))?;
        }
        Ok(adapter)
    }

    fn try_out(&self, work: Work) -> Result<Output> {
        let (ids, type_ids) = (TRIAL_IDS.into(), [0; TRIAL_IDS.len()].into());
        let answers = answer(&[BatchSequence { ids, type_ids, work }], None);
        let output = answers.outputs.into_iter().next();
        output.unwrap_or_else(|| Err(Error::internal("a pass without an answer")))
    }
}
