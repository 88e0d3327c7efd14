//! Whether a pre-finetuning job can run: its mix of datasets, its names and its numbers, every problem at once.

use std::collections::BTreeSet;

use super::{Ranges, check_layers, conclude, is_callers};
use crate::domain::{
    Cancel, DataRef, Family, LayerChoice, MixedSet, PreFinetuneHyperparameters, PreFinetuneSpec, Publish, Result,
};
use crate::serving::jobs::ports::{DataSource, Limits, Publisher, registered};
use crate::training::PoolSet;
use crate::training::dataset::{DatasetFamily, Split};

/// Steps of one run: some days on two cores.
const STEPS_MAX: u64 = 1_000_000;

/// Rows of a micro-batch: its activations stay in memory, some hundred megabytes for 32 rows.
const BATCH_MAX: usize = 256;

/// Datasets of one family: they are all in memory during a run.
const SETS_MAX: usize = 256;

/// The rows of a job, read and fit for it: NER's and classification's.
pub(in crate::serving::jobs) type Pools = (Vec<PoolSet>, Vec<PoolSet>);

/// What becomes of rows that were read and found fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serving::jobs) enum Rows {
    /// For the run that follows.
    Keep,
    /// Before the job is queued: one dataset at a time is in memory.
    Drop,
}

/// Reads and checks all of it. `unprocessable` with every problem, each naming its field. Fails once it is cancelled.
pub(in crate::serving::jobs) fn check_pre_finetune(
    spec: &PreFinetuneSpec,
    data: &dyn DataSource,
    publisher: &dyn Publisher,
    limits: Limits,
    rows: Rows,
    cancel: &Cancel,
) -> Result<Pools> {
    let mut problems = Vec::new();
    let mut mix = |family| read_mix(family, spec, data, rows, cancel, &mut problems);
    let pools = (mix(Family::Ner)?, mix(Family::Classify)?);
    check_names(spec, publisher, &mut problems)?;
    check_hyperparameters(&spec.hyperparameters, limits, &mut problems);
    conclude(problems).map(|()| pools)
}

/// The backbone this job would leave must not be there already: known only before the job has left it.
pub(in crate::serving::jobs) fn check_new(spec: &PreFinetuneSpec, publisher: &dyn Publisher) -> Result<()> {
    let name = spec.outputs.backbone.as_str();
    let problem = match publisher.has_backbone(name)? {
        true => vec![format!("outputs.backbone: a backbone {name:?} is there already; choose another name")],
        false => Vec::new(),
    };
    conclude(problem)
}

fn read_mix(
    family: Family,
    spec: &PreFinetuneSpec,
    data: &dyn DataSource,
    rows: Rows,
    cancel: &Cancel,
    problems: &mut Vec<String>,
) -> Result<Vec<PoolSet>> {
    if !spec.strategy.families().contains(&family) {
        return Ok(Vec::new());
    }
    let (sets, field) = (spec.mix(family), format!("{family}.datasets"));
    if !(1..=SETS_MAX).contains(&sets.len()) {
        problems.push(format!("{field}: {} datasets; 1 to {SETS_MAX} are wanted", sets.len()));
        return Ok(Vec::new());
    }
    let mut names = BTreeSet::new();
    let mut pools = Vec::new();
    for MixedSet { data: reference, weight } in sets {
        if !names.insert(reference.to_string()) {
            problems.push(format!("{field}: {reference} is named twice"));
            continue;
        }
        if !(weight.is_finite() && *weight > 0.0) {
            problems.push(format!("{field}: weight {weight} of {reference} is not above 0"));
        }
        let split = read_set(&field, reference, family, data, cancel, problems)?;
        if let Some(split) = split.filter(|_| rows == Rows::Keep) {
            pools.push(PoolSet { name: reference.to_string(), weight: *weight, split });
        }
    }
    Ok(pools)
}

/// Pairs may stand among classification's sets.
fn read_set(
    field: &str,
    reference: &DataRef,
    family: Family,
    data: &dyn DataSource,
    cancel: &Cancel,
    problems: &mut Vec<String>,
) -> Result<Option<Split>> {
    let fits = |found| match family {
        Family::Ner => found == DatasetFamily::Ner,
        Family::Classify => matches!(found, DatasetFamily::Classify | DatasetFamily::Pairs),
    };
    match data.read(reference, cancel) {
        Ok((found, split)) if fits(found) => Ok(Some(split)),
        Ok((found, _)) => {
            problems.push(format!("{field}: dataset {} is of family {found}", reference.dataset));
            Ok(None)
        }
        Err(error) if is_callers(&error) => {
            problems.push(format!("{field}: {error}"));
            Ok(None)
        }
        Err(error) => Err(error.context(field)),
    }
}

fn check_names(spec: &PreFinetuneSpec, publisher: &dyn Publisher, problems: &mut Vec<String>) -> Result<()> {
    if !publisher.is_active_backbone(&spec.backbone)? {
        problems.push(format!(
            "backbone: {:?} is not the active one, which jobs start from; \"default\" stands for it",
            spec.backbone
        ));
    }
    let outputs = &spec.outputs;
    if outputs.ner_primary == outputs.classify_primary {
        problems.push(format!("outputs: both primaries are called {}", outputs.ner_primary));
    }
    if spec.publish == Publish::Never {
        return Ok(());
    }
    for family in [Family::Ner, Family::Classify] {
        let name = outputs.primary(family);
        let Some(found) = registered(publisher, name)? else { continue };
        if found.name != *name {
            problems.push(format!("outputs.{family}_primary: {name} is an alias of {}; name an adapter", found.name));
        }
        if found.family.is_some_and(|known| known != family) {
            problems.push(format!("outputs.{family}_primary: adapter {name} is of the other family"));
        }
    }
    Ok(())
}

fn check_hyperparameters(h: &PreFinetuneHyperparameters, limits: Limits, problems: &mut Vec<String>) {
    let mut ranges = Ranges(problems);
    ranges.within("steps", h.steps, 1..=STEPS_MAX);
    ranges.within("batch_size", h.batch_size, 2..=BATCH_MAX);
    ranges.within("rank", h.rank, 1..=256);
    ranges.within("max_length", h.max_length, 8..=limits.max_length);
    ranges.within("concepts_max", h.concepts_max, 1..=PreFinetuneHyperparameters::CONCEPTS_MAX);
    for (field, rate) in
        [("backbone_learning_rate", h.backbone_learning_rate), ("adapter_learning_rate", h.adapter_learning_rate)]
    {
        ranges.holds(field, rate, rate > 0.0 && rate <= 1.0, "above 0 and at most 1");
    }
    for (field, value) in [
        ("alpha", h.alpha),
        ("max_gradient_norm", h.max_gradient_norm),
        ("temperature", h.temperature),
        ("ner_weight", h.ner_weight),
        ("classify_weight", h.classify_weight),
    ] {
        ranges.holds(field, value, value > 0.0 && value.is_finite(), "above 0");
    }
    ranges.holds("dropout", h.dropout, (0.0..1.0).contains(&h.dropout), "from 0 to below 1");
    for (field, value) in [
        ("weight_decay", h.weight_decay),
        ("warmup_ratio", h.warmup_ratio),
        ("sampling_exponent", h.sampling_exponent),
        ("label_name_share", h.label_name_share),
    ] {
        ranges.within(field, value, 0.0..=1.0);
    }
    ranges.within("class_pairs_max", h.class_pairs_max, 1..=BATCH_MAX);
    let preserve = h.preserve_weight;
    ranges.holds("preserve_weight", preserve, preserve >= 0.0 && preserve.is_finite(), "at least 0");
    ranges.within("measure_every", h.measure_every, 1..=STEPS_MAX);
    if h.target_modules.as_ref().is_some_and(Vec::is_empty) {
        problems.push("hyperparameters.target_modules: an empty list; name linears or say \"auto\"".to_owned());
    }
    let layers = if h.layers == LayerChoice::Auto { &LayerChoice::All } else { &h.layers };
    check_layers(layers, limits.layers, problems);
}
