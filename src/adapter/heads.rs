//! Updates of linears outside the layers: a head's, which `all-linear` and a bare `dense` mean too, and ELECTRA's between the
//! embeddings and the first layer. The former become the sum W + scale·B·A when read, so that a head is one set of weights; W is the
//! adapter's own copy, else what the backbone's file holds. Leaves running them to `model`.

use candle_core::Tensor;

use crate::adapter::claims::Claims;
use crate::adapter::names::{lora_a, lora_b, lora_b_bias};
use crate::adapter::pooler::Pooler;
use crate::adapter::targets::resolve;
use crate::adapter::weights::file_name;
use crate::adapter::{AdapterCard, LoraConfig, TargetModules};
use crate::domain::{HeadForm, Result};
use crate::model::{Architecture, Delta, Encoder, Head, HeadKind};

/// Layers before a classifier that PEFT saves only if told so, and otherwise runs as the backbone's file has them.
const FILLED: [&str; 2] = ["pre_classifier", "classifier.dense"];

/// A head's linear by its name in the task model.
struct HeadLinear {
    module: String,
    /// (out, in) of its weight.
    shape: Vec<usize>,
    has_bias: bool,
}

/// Puts the whole weights of the head's linears in place of updates, and of what an adapter leaves to the backbone's file. The
/// configuration of the same adapter then says that they are saved.
pub(crate) fn merge(
    config: LoraConfig,
    card: &AdapterCard,
    (encoder, kind): (&Encoder, HeadKind),
    claims: &mut Claims,
) -> Result<LoraConfig> {
    if card.head != HeadForm::Labels {
        return Ok(config);
    }
    let pooler = Pooler::of(card, encoder);
    let mut merged = config;
    for linear in linears(card, encoder, kind) {
        let update = resolve(&merged, std::slice::from_ref(&linear.module))?.into_iter().next().flatten();
        let is_due = pooler.as_ref().is_some_and(|pooler| pooler.must_be_updated(&linear.module, &merged));
        match update {
            Some(update) if is_due || claims.has_update(&linear.module) => {
                linear.merge(update, &merged, encoder, claims)?;
                let name = linear.module.strip_prefix(encoder.config().architecture.task_prefix());
                merged = saved_whole(merged, name.unwrap_or(&linear.module));
            }
            _ if FILLED.contains(&&*linear.module) => linear.fill(encoder, claims),
            _ => {}
        }
    }
    Ok(merged)
}

/// The update of the linear between the embeddings and the first layer.
pub(crate) fn take_projection(config: &LoraConfig, encoder: &Encoder, claims: &mut Claims) -> Result<Option<Delta>> {
    let Some((outputs, inputs)) = encoder.projection_shape() else { return Ok(None) };
    let module = projection_name(encoder.config().architecture);
    let update = resolve(config, std::slice::from_ref(&module))?.into_iter().next().flatten();
    let Some((rank, scale)) = update.filter(|_| claims.has_update(&module)) else { return Ok(None) };
    let a = claims.take(&lora_a(&module), &[rank, inputs]);
    let b = claims.take(&lora_b(&module), &[outputs, rank]);
    Ok(a.zip(b).map(|(a, b)| Delta { a, b, scale }))
}

/// `electra.embeddings_project`
pub(crate) fn projection_name(architecture: Architecture) -> String {
    format!("{}embeddings_project", architecture.task_prefix())
}

/// The configuration of the same adapter with a whole copy of `module` in place of an update.
pub(crate) fn saved_whole(config: LoraConfig, module: &str) -> LoraConfig {
    let exclude_modules = Some(match config.exclude_modules {
        Some(TargetModules::Suffixes(names)) => {
            TargetModules::Suffixes(names.into_iter().chain([module.to_owned()]).collect())
        }
        Some(TargetModules::Regex(pattern)) => {
            TargetModules::Regex(format!(r"(?:{pattern})|(?:.*\.)?{}", module.replace('.', r"\.")))
        }
        Some(TargetModules::AllLinear) | None => TargetModules::Suffixes(vec![module.to_owned()]),
    });
    let saved = module.split('.').next().unwrap_or(module).to_owned();
    let mut modules_to_save = config.modules_to_save;
    if !modules_to_save.contains(&saved) {
        modules_to_save.push(saved);
    }
    LoraConfig { exclude_modules, modules_to_save, ..config }
}

fn linears(card: &AdapterCard, encoder: &Encoder, kind: HeadKind) -> Vec<HeadLinear> {
    let tensors = Head::tensors_of(kind, encoder, &card.pooling, card.labels.len());
    let has = |wanted: &str| tensors.iter().any(|(name, _)| name == wanted);
    let linear = |(name, shape): &(String, Vec<usize>)| {
        let module = name.strip_suffix(".weight").filter(|_| shape.len() == 2)?.to_owned();
        Some(HeadLinear { has_bias: has(&format!("{module}.bias")), shape: shape.clone(), module })
    };
    tensors.iter().filter_map(linear).collect()
}

impl HeadLinear {
    fn weight(&self) -> String {
        format!("{}.weight", self.module)
    }

    fn bias(&self) -> String {
        format!("{}.bias", self.module)
    }

    /// The adapter's own, else the backbone's.
    fn whole(&self, name: &str, shape: &[usize], encoder: &Encoder, claims: &Claims) -> Option<Tensor> {
        let backbones = || encoder.head_tensor(name).filter(|tensor| tensor.dims() == shape);
        claims.own(name, shape).or_else(backbones)
    }

    fn merge(
        &self,
        (rank, scale): (usize, f64),
        config: &LoraConfig,
        encoder: &Encoder,
        claims: &mut Claims,
    ) -> Result<()> {
        let (outputs, inputs) = (self.shape[0], self.shape[1]);
        let a = claims.take(&lora_a(&self.module), &[rank, inputs]);
        let b = claims.take(&lora_b(&self.module), &[outputs, rank]);
        match (self.whole(&self.weight(), &self.shape, encoder, claims), a, b) {
            (Some(weight), Some(a), Some(b)) => claims.put(self.weight(), (weight + (b.matmul(&a)? * scale)?)?),
            // So that it is not missed a second time.
            (Some(weight), _, _) => claims.put(self.weight(), weight),
            (None, ..) => claims.problems.push(format_args!(
                "{} updates a linear that neither the adapter nor the backbone's file has: {} of shape {:?} is missing",
                file_name(&lora_b(&self.module)),
                self.weight(),
                self.shape
            )),
        }
        let change = if config.lora_bias { claims.take(&lora_b_bias(&self.module), &[outputs]) } else { None };
        if !self.has_bias {
            return Ok(());
        }
        let Some(bias) = self.whole(&self.bias(), &[outputs], encoder, claims) else { return Ok(()) };
        let bias = match change {
            Some(change) => (bias + (change * scale)?)?,
            None => bias,
        };
        claims.put(self.bias(), bias);
        Ok(())
    }

    /// What the adapter does not bring, as the backbone's file has it.
    fn fill(&self, encoder: &Encoder, claims: &mut Claims) {
        let outputs = [self.shape[0]];
        let mut parts = vec![(self.weight(), &self.shape[..])];
        parts.extend(self.has_bias.then(|| (self.bias(), &outputs[..])));
        for (name, shape) in parts {
            let found = encoder.head_tensor(&name).filter(|tensor| tensor.dims() == shape && !claims.has(&name));
            if let Some(tensor) = found {
                claims.put(name, tensor);
            }
        }
    }
}
