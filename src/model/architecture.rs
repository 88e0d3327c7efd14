//! The encoders we know, and what the reference library calls their modules.

use crate::domain::{Error, Result};
use crate::model::{Linear, Site};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    Bert,
    /// RoBERTa and XLM-RoBERTa.
    Roberta,
    DistilBert,
    Electra,
    ModernBert,
}

impl Architecture {
    /// From `config.json`'s `model_type`.
    pub fn from_model_type(model_type: &str) -> Result<Self> {
        match model_type {
            "bert" => Ok(Self::Bert),
            "roberta" | "xlm-roberta" => Ok(Self::Roberta),
            "distilbert" => Ok(Self::DistilBert),
            "electra" => Ok(Self::Electra),
            "modernbert" => Ok(Self::ModernBert),
            _ => Err(Error::unprocessable(format!(
                "config.json: model_type {model_type:?} is not supported, only bert, roberta, xlm-roberta, distilbert, electra and modernbert"
            ))),
        }
    }

    /// What the reference library's task models put before the encoder's module names, as PEFT files show it: `bert.` and so on.
    pub fn task_prefix(self) -> &'static str {
        match self {
            Self::Bert => "bert.",
            Self::Roberta => "roberta.",
            Self::DistilBert => "distilbert.",
            Self::Electra => "electra.",
            Self::ModernBert => "model.",
        }
    }

    /// The reference library's name of a linear below the encoder: `encoder.layer.4.attention.self.query`.
    ///
    /// # Panics
    /// If no layer of this architecture has such a linear; those of [`Encoder::sites`](crate::model::Encoder::sites) exist.
    pub fn module_path(self, site: Site) -> String {
        let named = self.linears().iter().find(|(linear, _)| *linear == site.linear);
        let (_, path) = named.expect("the site is one of this architecture's");
        format!("{}.{}.{path}", self.layer_path(), site.layer)
    }

    /// The linears of each layer, in the order of [`Linear`], by their names below the layer.
    pub(crate) fn linears(self) -> &'static [(Linear, &'static str)] {
        match self {
            Self::Bert | Self::Roberta | Self::Electra => &[
                (Linear::Query, "attention.self.query"),
                (Linear::Key, "attention.self.key"),
                (Linear::Value, "attention.self.value"),
                (Linear::AttentionOutput, "attention.output.dense"),
                (Linear::Intermediate, "intermediate.dense"),
                (Linear::Output, "output.dense"),
            ],
            Self::DistilBert => &[
                (Linear::Query, "attention.q_lin"),
                (Linear::Key, "attention.k_lin"),
                (Linear::Value, "attention.v_lin"),
                (Linear::AttentionOutput, "attention.out_lin"),
                (Linear::Intermediate, "ffn.lin1"),
                (Linear::Output, "ffn.lin2"),
            ],
            Self::ModernBert => &[
                (Linear::Qkv, "attn.Wqkv"),
                (Linear::AttentionOutput, "attn.Wo"),
                (Linear::Intermediate, "mlp.Wi"),
                (Linear::Output, "mlp.Wo"),
            ],
        }
    }

    /// The list of layers.
    pub(crate) fn layer_path(self) -> &'static str {
        match self {
            Self::Bert | Self::Roberta | Self::Electra => "encoder.layer",
            Self::DistilBert => "transformer.layer",
            Self::ModernBert => "layers",
        }
    }

    /// A layer's norms below its name: after (ModernBERT: before) attention, and the same for the feed-forward block.
    pub(crate) fn norms(self) -> (&'static str, &'static str) {
        match self {
            Self::Bert | Self::Roberta | Self::Electra => ("attention.output.LayerNorm", "output.LayerNorm"),
            Self::DistilBert => ("sa_layer_norm", "output_layer_norm"),
            Self::ModernBert => ("attn_norm", "mlp_norm"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linears_have_the_reference_librarys_names() {
        for (architecture, linear, path) in [
            (Architecture::Bert, Linear::Query, "encoder.layer.4.attention.self.query"),
            (Architecture::Electra, Linear::Output, "encoder.layer.4.output.dense"),
            (Architecture::Roberta, Linear::AttentionOutput, "encoder.layer.4.attention.output.dense"),
            (Architecture::DistilBert, Linear::Query, "transformer.layer.4.attention.q_lin"),
            (Architecture::ModernBert, Linear::Qkv, "layers.4.attn.Wqkv"),
        ] {
            assert_eq!(architecture.module_path(Site { layer: 4, linear }), path);
        }
    }
}
