//! Whether a job can run at all: its data, its adapters and its numbers, every problem at once.

mod pre_finetune;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::domain::{
    AdapterRef, Auto, Cancel, DataRef, Error, ErrorKind, Family, FineTuneSpec, Gate, GateMetric, GateSplit,
    Hyperparameters, LayerChoice, Result, Tag,
};
use crate::serving::jobs::ports::{DataSource, Limits, Publisher, registered};
use crate::serving::jobs::record::layers_to_json;
use crate::training::dataset::{DatasetFamily, Example, Split};

pub(super) use pre_finetune::{Pools, Rows, check_new, check_pre_finetune};

/// Fewer rows teach nothing; it is a mistake of the upload.
const TRAIN_ROWS_MIN: usize = 4;

/// A tenth is held out where no validation split is named: one row at least.
const TRAIN_ROWS_MIN_HELD_OUT: usize = 10;

/// How sure a gate may want to be of its figure: below a half an interval's lower end says nothing, and one is never reached.
const GATE_CONFIDENCE: RangeInclusive<f64> = 0.5..=0.999;

/// Labels named in one problem.
const LABELS_SHOWN_MAX: usize = 10;

/// The splits of a job, read and fit for it.
#[derive(Debug)]
pub(super) struct JobData {
    pub(super) train: Split,
    pub(super) validation: Option<Split>,
    pub(super) test: Option<Split>,
}

/// Reads and checks all of it. `unprocessable` with every problem, each naming its field. Fails once it is cancelled.
pub(super) fn check(
    spec: &FineTuneSpec,
    data: &dyn DataSource,
    publisher: &dyn Publisher,
    limits: Limits,
    cancel: &Cancel,
) -> Result<JobData> {
    let mut problems = Vec::new();
    let splits = read_splits(spec, data, cancel, &mut problems)?;
    check_adapters(spec, publisher, &mut problems)?;
    check_hyperparameters(&spec.hyperparameters, limits, &mut problems);
    if let Some(gate) = &spec.gate {
        check_gate(gate, spec, &mut problems);
    }
    conclude(problems)?;
    splits.ok_or_else(|| Error::internal("a job without problems and without data"))
}

/// `unprocessable` with all of them, if there are any.
fn conclude(problems: Vec<String>) -> Result<()> {
    match problems.len() {
        0 => Ok(()),
        count => {
            let message = format!("the job has {count} problem{}", if count == 1 { "" } else { "s" });
            Err(Error::unprocessable(message).with_problems(problems))
        }
    }
}

fn read_splits(
    spec: &FineTuneSpec,
    data: &dyn DataSource,
    cancel: &Cancel,
    problems: &mut Vec<String>,
) -> Result<Option<JobData>> {
    let mut read = |field, reference: Option<&DataRef>| {
        reference.map_or(Ok(None), |reference| read_split(field, reference, spec.family, data, cancel, problems))
    };
    let train = read("data.train", Some(&spec.train))?;
    let validation = read("data.validation", spec.validation.as_ref())?;
    let test = read("data.test", spec.test.as_ref())?;
    let Some(train) = train else { return Ok(None) };
    check_train(&train, spec, problems);
    let names = labels(&train);
    for (field, split) in [("data.validation", &validation), ("data.test", &test)] {
        if let Some(split) = split {
            check_held_out(field, split, &train, &names, problems);
        }
    }
    Ok(Some(JobData { train, validation, test }))
}

fn read_split(
    field: &str,
    reference: &DataRef,
    family: Family,
    data: &dyn DataSource,
    cancel: &Cancel,
    problems: &mut Vec<String>,
) -> Result<Option<Split>> {
    let (found, split) = match data.read(reference, cancel) {
        Ok(read) => read,
        Err(error) if is_callers(&error) => {
            problems.push(format!("{field}: {error}"));
            return Ok(None);
        }
        Err(error) => return Err(error.context(field)),
    };
    if found != DatasetFamily::from(family) {
        problems.push(format!(
            "{field}: dataset {} is of family {}; {family} is wanted",
            reference.dataset,
            name(found)
        ));
        return Ok(None);
    }
    Ok(Some(split))
}

fn check_train(train: &Split, spec: &FineTuneSpec, problems: &mut Vec<String>) {
    let rows = train.examples.len();
    let least = if spec.validation.is_some() { TRAIN_ROWS_MIN } else { TRAIN_ROWS_MIN_HELD_OUT };
    if rows < least {
        problems.push(format!("data.train: {rows} rows; at least {least} are wanted"));
    }
    let found = labels(train).len();
    match spec.family {
        Family::Ner if found == 0 => problems.push("data.train: no row has an entity".to_owned()),
        Family::Classify if found < 2 => problems.push(format!("data.train: {found} label; at least two are wanted")),
        _ => {}
    }
}

fn check_held_out(field: &str, split: &Split, train: &Split, names: &BTreeSet<&str>, problems: &mut Vec<String>) {
    if split.examples.is_empty() {
        problems.push(format!("{field}: no rows"));
    }
    if split.multi_label && !train.multi_label {
        problems.push(format!("{field}: rows have lists of labels, those of data.train have one each"));
    }
    let unknown: Vec<&str> = labels(split).into_iter().filter(|label| !names.contains(label)).collect();
    if !unknown.is_empty() {
        let shown = unknown[..unknown.len().min(LABELS_SHOWN_MAX)].join(", ");
        problems.push(format!("{field}: {} labels that data.train has not: {shown}", unknown.len()));
    }
}

/// Classes, or entity types.
fn labels(split: &Split) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for example in &split.examples {
        match example {
            Example::Ner { tags, .. } => found.extend(tags.iter().filter_map(|tag| Tag::parse(tag).label())),
            Example::Classify { labels, .. } => found.extend(labels.iter().map(String::as_str)),
            Example::Pair { label, .. } => found.extend(label.as_deref()),
        }
    }
    found
}

fn check_adapters(spec: &FineTuneSpec, publisher: &dyn Publisher, problems: &mut Vec<String>) -> Result<()> {
    if let Some(found) = registered(publisher, &spec.adapter)? {
        if found.name != spec.adapter {
            problems.push(format!("adapter: {} is an alias of {}; name an adapter", spec.adapter, found.name));
        }
        check_family("adapter", found.family, spec, problems);
    }
    spec.init_from.as_ref().map_or(Ok(()), |init| check_init(init, spec, publisher, problems))
}

fn check_init(
    init: &AdapterRef,
    spec: &FineTuneSpec,
    publisher: &dyn Publisher,
    problems: &mut Vec<String>,
) -> Result<()> {
    let found = match publisher.find(init) {
        Ok(found) => found,
        Err(error) if is_callers(&error) => {
            problems.push(format!("init_from: {error}"));
            return Ok(());
        }
        Err(error) => return Err(error.context("init_from")),
    };
    let has = |wanted: u32| found.versions.iter().any(|(version, _)| *version == wanted);
    match init.version {
        Some(version) if !has(version) => problems.push(format!("init_from: {} has no version {version}", found.name)),
        None if found.active.is_none() => problems.push(format!("init_from: {} has no active version", found.name)),
        _ => {}
    }
    check_family("init_from", found.family, spec, problems);
    Ok(())
}

fn check_family(field: &str, family: Option<Family>, spec: &FineTuneSpec, problems: &mut Vec<String>) {
    if let Some(family) = family.filter(|&family| family != spec.family) {
        problems.push(format!("{field}: this adapter is of family {family}; the job's is {}", spec.family));
    }
}

fn check_hyperparameters(h: &Hyperparameters, limits: Limits, problems: &mut Vec<String>) {
    let mut ranges = Ranges(problems);
    ranges.auto("epochs", h.epochs, 1..=1000);
    ranges.auto("batch_size", h.batch_size, 1..=1024);
    ranges.within("rank", h.rank, 1..=256);
    ranges.within("max_length", h.max_length, 8..=limits.max_length);
    ranges.auto("early_stopping_patience", h.early_stopping_patience, 0..=1000);
    if let Auto::Set(rate) = h.learning_rate {
        ranges.holds("learning_rate", rate, rate > 0.0 && rate <= 1.0, "above 0 and at most 1");
    }
    let (alpha, norm) = (h.alpha, h.max_gradient_norm);
    ranges.holds("alpha", alpha, alpha > 0.0 && alpha.is_finite(), "above 0");
    ranges.holds("max_gradient_norm", norm, norm > 0.0 && norm.is_finite(), "above 0");
    ranges.holds("dropout", h.dropout, (0.0..1.0).contains(&h.dropout), "from 0 to below 1");
    ranges.within("weight_decay", h.weight_decay, 0.0..=1.0);
    ranges.within("warmup_ratio", h.warmup_ratio, 0.0..=1.0);
    if h.target_modules.as_ref().is_some_and(Vec::is_empty) {
        problems.push("hyperparameters.target_modules: an empty list; name linears or say \"auto\"".to_owned());
    }
    check_layers(&h.layers, limits.layers, problems);
}

struct Ranges<'a>(&'a mut Vec<String>);

impl Ranges<'_> {
    fn holds(&mut self, field: &str, value: impl Display, holds: bool, wanted: &str) {
        if !holds {
            self.0.push(format!("hyperparameters.{field}: {value} is not {wanted}"));
        }
    }

    fn within<T: PartialOrd + Display>(&mut self, field: &str, value: T, range: RangeInclusive<T>) {
        let wanted = format!("{} to {}", range.start(), range.end());
        self.holds(field, &value, range.contains(&value), &wanted);
    }

    fn auto<T: PartialOrd + Display + Copy>(&mut self, field: &str, value: Auto<T>, range: RangeInclusive<T>) {
        if let Auto::Set(value) = value {
            self.within(field, value, range);
        }
    }
}

fn check_layers(choice: &LayerChoice, layers: usize, problems: &mut Vec<String>) {
    let distinct = |these: &[usize]| these.iter().collect::<BTreeSet<_>>().len() == these.len();
    let fits = match choice {
        LayerChoice::Auto | LayerChoice::All => true,
        LayerChoice::Last(count) => (1..=layers).contains(count),
        LayerChoice::These(these) => {
            !these.is_empty() && distinct(these) && these.iter().all(|layer| (..layers).contains(layer))
        }
    };
    if !fits {
        let wanted = format!("the encoder has layers 0 to {}", layers.saturating_sub(1));
        let shown = layers_to_json(choice);
        let shown = shown.as_str().map_or_else(|| shown.to_string(), str::to_owned);
        problems.push(format!("hyperparameters.layers: {shown} does not fit; {wanted}, each to be named once"));
    }
}

fn check_gate(gate: &Gate, spec: &FineTuneSpec, problems: &mut Vec<String>) {
    use GateMetric::{Accuracy, F1, MacroF1, Precision, Recall, WeightedF1};
    let metrics: &[GateMetric] = match spec.family {
        Family::Ner => &[F1, MacroF1, Precision, Recall],
        Family::Classify => &[Accuracy, MacroF1, WeightedF1, F1],
    };
    if !metrics.contains(&gate.metric) {
        let known: Vec<&str> = metrics.iter().map(|metric| metric.as_str()).collect();
        let (metric, family) = (gate.metric.as_str(), spec.family);
        problems.push(format!("gate.metric: {metric} is no metric of {family}; there are {}", known.join(", ")));
    }
    if !(0.0..=1.0).contains(&gate.min) {
        problems.push(format!("gate.min: {} is not 0 to 1", gate.min));
    }
    if let Some(confidence) = gate.confidence.filter(|confidence| !GATE_CONFIDENCE.contains(confidence)) {
        let (least, most) = (GATE_CONFIDENCE.start(), GATE_CONFIDENCE.end());
        problems.push(format!("gate.confidence: {confidence} is not {least} to {most}"));
    }
    if gate.on == GateSplit::Test && spec.test.is_none() {
        problems.push("gate.on: \"test\" is asked for, and data.test is missing".to_owned());
    }
    if gate.not_worse_than_active && gate.split_of(spec).is_none() {
        problems.push(format!(
            "gate.not_worse_than_active: both versions are measured on data.{}, which is missing",
            if gate.on == GateSplit::Auto { "test or data.validation" } else { "validation" }
        ));
    }
}

/// What the caller can mend, as opposed to a failure of ours.
fn is_callers(error: &Error) -> bool {
    use ErrorKind::{AdapterNotFound, Conflict, InvalidRequest, NotFound, Unprocessable};
    matches!(error.kind(), AdapterNotFound | Conflict | InvalidRequest | NotFound | Unprocessable)
}

fn name(family: DatasetFamily) -> &'static str {
    match family {
        DatasetFamily::Ner => "ner",
        DatasetFamily::Classify => "classify",
        DatasetFamily::Pairs => "pairs",
    }
}
