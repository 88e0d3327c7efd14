//! STUDY.toml: which arms are compared on which data sets, and by which numbers. A value that is not there is the program's default.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::{AdapterName, Error, Family, LayerChoice, Result};
use crate::training::study::settings::{FineTuneSettings, PreFinetuneSettings};

/// Cells of one study: a week of the machines this is made for.
const CELLS_MAX: usize = 100_000;

/// The whole grid: arm × downstream set × share × seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    pub name: String,
    pub seeds: Vec<u64>,
    pub shares: Vec<Share>,
    #[serde(default)]
    pub caps: Caps,
    /// Of every cell whose arm does not say otherwise.
    #[serde(default)]
    pub fine_tune: FineTuneSettings,
    /// Of every arm that does not say otherwise.
    #[serde(default)]
    pub pre_finetune: PreFinetuneSettings,
    #[serde(default)]
    pub pool: PoolSettings,
    #[serde(rename = "arm")]
    pub arms: Vec<Arm>,
    pub downstream: Vec<Downstream>,
    #[serde(default)]
    pub zero_shot: Vec<ZeroShot>,
}

/// Rows of a downstream set that are used at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Caps {
    pub train_rows: usize,
    /// They choose the best epoch and are evaluated after each.
    pub validation_rows: usize,
    /// The same where a share is counted in shots: few-shot users have no large validation set.
    pub shot_validation_rows: usize,
    pub test_rows: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self { train_rows: 2000, validation_rows: 200, shot_validation_rows: 64, test_rows: 1000 }
    }
}

/// What pre-finetuning trains on: `train` splits alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolSettings {
    /// Of each set.
    pub rows_max: usize,
    pub ner: Vec<PoolEntry>,
    pub classify: Vec<PoolEntry>,
    pub pairs: Vec<PoolEntry>,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self { rows_max: 8000, ner: Vec::new(), classify: Vec::new(), pairs: Vec::new() }
    }
}

/// `"anatem"`, or `{ set = "anatem", weight = 2.0 }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PoolEntry {
    Set(String),
    Weighted(WeightedSet),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedSet {
    pub set: String,
    pub weight: f64,
}

impl PoolEntry {
    pub fn set(&self) -> &str {
        match self {
            Self::Set(set) => set,
            Self::Weighted(entry) => &entry.set,
        }
    }

    pub fn weight(&self) -> f64 {
        match self {
            Self::Set(_) => 1.0,
            Self::Weighted(entry) => entry.weight,
        }
    }
}

/// One way to a backbone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    pub name: String,
    pub strategy: ArmStrategy,
    /// Laid over the study's own.
    #[serde(default, skip_serializing_if = "PreFinetuneSettings::is_empty")]
    pub pre_finetune: PreFinetuneSettings,
    /// The same of its cells: what a deeper or wider LoRA does without pre-finetuning.
    #[serde(default, skip_serializing_if = "FineTuneSettings::is_empty")]
    pub fine_tune: FineTuneSettings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArmStrategy {
    /// The backbone as it is.
    None,
    NerOnly,
    ClassifyOnly,
    Joint,
    TaskPrimary,
}

impl ArmStrategy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NerOnly => "ner_only",
            Self::ClassifyOnly => "classify_only",
            Self::Joint => "joint",
            Self::TaskPrimary => "task_primary",
        }
    }

    /// Whether a backbone of this arm is meant for `family`: one that was pre-finetuned for the other family alone is not.
    pub fn serves(self, family: Family) -> bool {
        match self {
            Self::None | Self::Joint | Self::TaskPrimary => true,
            Self::NerOnly => family == Family::Ner,
            Self::ClassifyOnly => family == Family::Classify,
        }
    }

    /// Pre-finetuned for one family.
    pub fn is_individual(self) -> bool {
        matches!(self, Self::NerOnly | Self::ClassifyOnly)
    }
}

/// A data set that every arm is fine-tuned on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Downstream {
    #[serde(with = "as_text")]
    pub family: Family,
    pub set: String,
}

/// A split whose types or labels are told by their names alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZeroShot {
    #[serde(with = "as_text")]
    pub family: Family,
    pub set: String,
    pub split: String,
}

/// How much of a set's training rows a cell trains on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Share {
    /// Examples a class, or mentions a type.
    Shots(usize),
    Percent(usize),
}

impl Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shots(count) => write!(f, "{count}-shot"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for Share {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let number = |text: &str, max: usize| text.parse().ok().filter(|count| (1..=max).contains(count));
        let shots = s.strip_suffix("-shot").and_then(|count| number(count, 1000)).map(Self::Shots);
        let percent = s.strip_suffix('%').and_then(|percent| number(percent, 100)).map(Self::Percent);
        shots.or(percent).ok_or_else(|| Error::invalid(format!("share {s:?} is neither \"10%\" nor \"8-shot\"")))
    }
}

impl TryFrom<String> for Share {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Share> for String {
    fn from(share: Share) -> Self {
        share.to_string()
    }
}

impl Study {
    /// `invalid_request` with every problem.
    pub fn check(&self) -> Result<()> {
        let mut problems = Vec::new();
        self.check_grid(&mut problems);
        self.check_arms(&mut problems);
        self.check_pool(&mut problems);
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!("study {:?} cannot be run", self.name)).with_problems(problems))
    }

    fn check_grid(&self, problems: &mut Vec<String>) {
        let downstream = self.downstream.iter().map(|set| (set.family.as_str(), &set.set));
        for (what, count, distinct) in [
            ("seeds", self.seeds.len(), self.seeds.iter().collect::<BTreeSet<_>>().len()),
            ("shares", self.shares.len(), self.shares.iter().collect::<BTreeSet<_>>().len()),
            ("arm", self.arms.len(), self.arms.iter().map(|arm| &arm.name).collect::<BTreeSet<_>>().len()),
            ("downstream", self.downstream.len(), downstream.collect::<BTreeSet<_>>().len()),
        ] {
            if count == 0 || count != distinct {
                problems.push(format!("{what}: {count} given, {distinct} of them different; at least one, none twice"));
            }
        }
        let cells = self.seeds.len() * self.shares.len() * self.arms.len() * self.downstream.len();
        if cells > CELLS_MAX {
            problems.push(format!("{cells} cells; at most {CELLS_MAX} are run"));
        }
        let Caps { train_rows, validation_rows, shot_validation_rows, test_rows } = self.caps;
        if [train_rows, validation_rows, shot_validation_rows, test_rows, self.pool.rows_max].contains(&0) {
            problems.push("caps and pool.rows_max: 0 rows; at least 1 is wanted".to_owned());
        }
    }

    fn check_arms(&self, problems: &mut Vec<String>) {
        for arm @ Arm { name, strategy, pre_finetune, .. } in &self.arms {
            if let Err(error) = name.parse::<AdapterName>() {
                problems.push(format!("arm: {error}"));
            }
            if *strategy == ArmStrategy::None && !pre_finetune.is_empty() {
                problems.push(format!("arm {name}: strategy \"none\" pre-finetunes nothing, so it takes no settings"));
            }
            if let Err(error) = self.fine_tune(arm).hyperparameters(0) {
                problems.push(format!("arm {name}: fine_tune: {error}"));
            }
            for family in [Family::Ner, Family::Classify] {
                let has_pool = self.pool.of(family).next().is_some();
                if *strategy != ArmStrategy::None && strategy.serves(family) && !has_pool {
                    problems.push(format!("arm {name}: the pool has no set of family {family}"));
                }
            }
        }
    }

    /// A set that is evaluated must not be trained on, under whatever family it is there.
    fn check_pool(&self, problems: &mut Vec<String>) {
        let pooled: Vec<&str> = self.pool.entries().map(|(_, entry)| entry.set()).collect();
        for set in self.evaluated() {
            if pooled.contains(&set) {
                problems.push(format!("pool: {set} is evaluated, so it cannot be trained on"));
            }
        }
        for (folder, entry) in self.pool.entries() {
            let weight = entry.weight();
            if !(weight > 0.0 && weight.is_finite()) {
                problems
                    .push(format!("pool: {folder}/{} has weight {weight}; a positive number is wanted", entry.set()));
            }
        }
    }

    /// The names of all sets that figures are reported on.
    pub fn evaluated(&self) -> BTreeSet<&str> {
        let zero_shot = self.zero_shot.iter().map(|zero| &*zero.set);
        self.downstream.iter().map(|set| &*set.set).chain(zero_shot).collect()
    }

    /// Of an arm's cells.
    pub fn fine_tune(&self, arm: &Arm) -> FineTuneSettings {
        arm.fine_tune.over(&self.fine_tune)
    }

    /// Of an arm's pre-finetuning.
    pub fn pre_finetune(&self, arm: &Arm) -> PreFinetuneSettings {
        arm.pre_finetune.over(&self.pre_finetune)
    }
}

impl PoolSettings {
    /// (folder, entry) of all sets; a set's folder is `ner`, `classify` or `pairs`.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, &PoolEntry)> {
        let ner = self.ner.iter().map(|entry| ("ner", entry));
        let classify = self.classify.iter().map(|entry| ("classify", entry));
        ner.chain(classify).chain(self.pairs.iter().map(|entry| ("pairs", entry)))
    }

    /// What an objective of `family` reads: pairs teach what classes do.
    pub fn of(&self, family: Family) -> impl Iterator<Item = (&'static str, &PoolEntry)> {
        self.entries().filter(move |(folder, _)| (*folder == "ner") == (family == Family::Ner))
    }
}

/// `auto`, `all`, `last:2`, or layer numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Layers {
    Named(String),
    These(Vec<usize>),
}

impl Layers {
    pub fn choice(&self) -> Result<LayerChoice> {
        match self {
            Self::These(these) => Ok(LayerChoice::These(these.clone())),
            Self::Named(name) => match (name.as_str(), name.strip_prefix("last:").and_then(|n| n.parse().ok())) {
                ("auto", _) => Ok(LayerChoice::Auto),
                ("all", _) => Ok(LayerChoice::All),
                (_, Some(count)) if count > 0 => Ok(LayerChoice::Last(count)),
                _ => Err(Error::invalid(format!("layers {name:?} is none of \"auto\", \"all\", \"last:2\", [4, 5]"))),
            },
        }
    }
}

/// Words of the domain, which has no file format of its own.
mod as_text {
    use super::{Deserialize, Deserializer, Display, Error, FromStr, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err = Error>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|error: Error| serde::de::Error::custom(error.message()))
    }
}
