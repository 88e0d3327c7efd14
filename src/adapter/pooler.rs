//! BERT's pooler, which sequence classification runs before its head: an adapter may bring a copy of it, trained in full
//! (`modules_to_save`). Leaves updates of it to `heads`, running it to `model::Head`.

use crate::adapter::heads::saved_whole;
use crate::adapter::targets::resolve;
use crate::adapter::{AdapterCard, LoraConfig};
use crate::domain::{Error, Family, Result};
use crate::model::{Architecture, Encoder};

/// Where a pooler is run.
pub(crate) struct Pooler {
    /// `bert.pooler.dense`
    module: String,
    hidden_size: usize,
}

impl Pooler {
    /// None where the architecture or the task has none.
    pub(crate) fn of(card: &AdapterCard, encoder: &Encoder) -> Option<Self> {
        let config = encoder.config();
        let is_run =
            config.architecture == Architecture::Bert && card.family == Family::Classify && card.pooling == "cls";
        is_run.then(|| Self {
            module: format!("{}pooler.dense", config.architecture.task_prefix()),
            hidden_size: config.hidden_size,
        })
    }

    /// Names and shapes of a copy.
    pub(crate) fn tensors(&self) -> [(String, Vec<usize>); 2] {
        let (weight, bias) = (format!("{}.weight", self.module), format!("{}.bias", self.module));
        [(weight, vec![self.hidden_size, self.hidden_size]), (bias, vec![self.hidden_size])]
    }

    /// Whether the configuration says that the adapter brings its own.
    pub(crate) fn is_saved(config: &LoraConfig) -> bool {
        config.modules_to_save.iter().any(|name| name == "pooler" || name.ends_with(".pooler"))
    }

    /// Whether the configuration asks for an update of it, which PEFT then certainly made.
    pub(crate) fn must_be_updated(&self, module: &str, config: &LoraConfig) -> bool {
        module == self.module && !Self::is_saved(config)
    }

    /// The rank and scale of an update, if the configuration asks for one: `all-linear` does, and a bare `dense`.
    fn update(&self, config: &LoraConfig) -> Result<Option<(usize, f64)>> {
        if Self::is_saved(config) {
            return Ok(None);
        }
        Ok(resolve(config, std::slice::from_ref(&self.module))?.into_iter().next().flatten())
    }

    /// The configuration of the same adapter with a copy in place of an update.
    pub(crate) fn saved_in_place_of_update(&self, config: LoraConfig) -> Result<LoraConfig> {
        if self.update(&config)?.is_none() {
            return Ok(config);
        }
        Ok(saved_whole(config, "pooler.dense"))
    }

    /// The backbone's own tensor, where every copy begins.
    pub(crate) fn backbones(&self, name: &str, encoder: &Encoder) -> Result<candle_core::Tensor> {
        let missing = || Error::unprocessable(format!("the backbone has no {name}, which the adapter would change"));
        encoder.backbone_tensor(name).ok_or_else(missing)
    }
}
