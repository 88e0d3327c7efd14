//! `trunkline train pre-finetune`: one run in the foreground, from files to a folder.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use super::{lay_settings, part};
use crate::app::commands::datasets::tell;
use crate::app::commands::evaluate::split_of_file;
use crate::app::commands::{print, read_file};
use crate::app::pre_finetuning;
use crate::app::progress::Progress;
use crate::app::shutdown::Interrupt;
use crate::app::wiring::ModelArgs;
use crate::domain::{DataRef, Error, Family, JobSpec, PreFinetuneSpec, Result};
use crate::serving::jobs::parse_spec;
use crate::training::dataset::{DatasetFamily, ReadOptions};
use crate::training::{Control, Observer, PoolSet, TrainingEvent};

#[derive(Debug, Args)]
pub(in crate::app) struct PreFinetuneArgs {
    /// The job as a JSON or TOML file, as POST /v1/admin/jobs takes it; flags below win over it
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
    /// task_primary, joint, ner_only or classify_only
    #[arg(long)]
    strategy: Option<String>,
    /// Tagged rows, again for more; a weight other than 1 after a comma
    #[arg(long, value_name = "NAME=FILE[,WEIGHT]")]
    ner: Vec<String>,
    /// Labelled texts, again for more
    #[arg(long, value_name = "NAME=FILE[,WEIGHT]")]
    classify: Vec<String>,
    /// Pairs of texts that belong together, again for more
    #[arg(long, value_name = "NAME=FILE[,WEIGHT]")]
    pairs: Vec<String>,
    /// Where datasets that the spec names lie: DIR/ner/NAME/SPLIT.jsonl.gz, likewise classify and pairs
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Hyper-parameter: NAME=VALUE, as in steps=500 or layers=last:4; again for more
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// Where the backbone, its primaries and the report go; a run that was interrupted goes on there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
}

/// A data set of a flag.
struct Given<'a> {
    name: &'a str,
    path: &'a Path,
    weight: f64,
}

pub(super) fn run(args: &PreFinetuneArgs) -> Result<()> {
    let spec = args.job()?;
    let rows = args.rows(&spec)?;
    let model = args.model.load()?;
    let mut watch = Watch { progress: Progress::steps("pre-finetuning"), interrupt: Interrupt::new()? };
    let left = pre_finetuning::run(&model, &spec, rows, &args.out, &mut watch)?;
    watch.progress.finish();
    let Some(left) = left else {
        return Err(Error::unavailable("interrupted; the same command goes on from its checkpoint"));
    };
    if let Some(calibration) = left.report.pointer("/pre_finetune/calibration").filter(|value| !value.is_null()) {
        print(&format!("held out    entity F1 {:.4} at {}\n", calibration["entity_f1"], calibration["threshold"]))?;
    }
    print(&format!("speed       {:.2} steps/s\n", left.steps_per_second))?;
    print(&format!("backbone    {} {}\n", left.backbone.folder.display(), left.backbone.fingerprint))?;
    print(&format!("primaries   {} {}\n", left.ner_primary.display(), left.classify_primary.display()))
}

impl PreFinetuneArgs {
    /// The spec file with the flags laid over it.
    fn job(&self) -> Result<PreFinetuneSpec> {
        let mut spec = match &self.spec {
            Some(path) => object(&read_file(path)?, path)?,
            None => Map::new(),
        };
        spec.insert("kind".to_owned(), json!("pre_finetune"));
        self.strategy.iter().for_each(|strategy| drop(spec.insert("strategy".to_owned(), json!(strategy))));
        let outputs = part(&mut spec, "outputs")?;
        for (key, name) in
            [("backbone", "backbone"), ("ner_primary", "ner-primary"), ("classify_primary", "classify-primary")]
        {
            outputs.entry(key).or_insert_with(|| json!(name));
        }
        lay_settings(&self.settings, &mut spec)?;
        lay_sets(&mut spec, "ner", &self.ner)?;
        lay_sets(&mut spec, "classify", &self.classify)?;
        lay_sets(&mut spec, "classify", &self.pairs)?;
        match parse_spec(Value::Object(spec))? {
            JobSpec::PreFinetune(spec) => Ok(spec),
            JobSpec::FineTune(_) => Err(Error::internal("a pre-finetuning spec was read as another")),
        }
    }

    /// The rows of both families, from the flags' files and the data folder.
    fn rows(&self, spec: &PreFinetuneSpec) -> Result<(Vec<PoolSet>, Vec<PoolSet>)> {
        let of = |family: Family| -> Result<Vec<PoolSet>> {
            let is_used = spec.strategy.families().contains(&family);
            let sets = spec.mix(family).iter().filter(|_| is_used);
            let set = |set: &crate::domain::MixedSet| {
                let split = self.read(family, &set.data)?;
                Ok(PoolSet { name: set.data.to_string(), weight: set.weight, split })
            };
            sets.map(set).collect()
        };
        Ok((of(Family::Ner)?, of(Family::Classify)?))
    }

    fn read(&self, family: Family, data: &DataRef) -> Result<crate::training::dataset::Split> {
        let kinds: &[(DatasetFamily, &[String])] = match family {
            Family::Ner => &[(DatasetFamily::Ner, &self.ner)],
            Family::Classify => &[(DatasetFamily::Classify, &self.classify), (DatasetFamily::Pairs, &self.pairs)],
        };
        for (kind, flags) in kinds {
            for flag in *flags {
                let given = parse(flag)?;
                if given.name == data.dataset {
                    let (report, split) = split_of_file(given.path, *kind, &data.split, &ReadOptions::default())?;
                    tell(given.path, &report);
                    return Ok(split);
                }
            }
        }
        let in_folder = |kind: DatasetFamily| {
            let file = format!("{kind}/{}/{}.jsonl.gz", data.dataset, data.split);
            self.data.as_ref().map(|folder| folder.join(file)).filter(|path| path.is_file())
        };
        match kinds.iter().find_map(|(kind, _)| Some((*kind, in_folder(*kind)?))) {
            // A folder holds dozens of sets that were prepared: their reports would bury the run's.
            Some((kind, path)) => Ok(split_of_file(&path, kind, &data.split, &ReadOptions::default())?.1),
            None => Err(Error::not_found(format!(
                "dataset {data}: no flag gives its file, and --data has none for family {family}"
            ))),
        }
    }
}

/// Names the flags' data sets in the spec.
fn lay_sets(spec: &mut Map<String, Value>, family: &str, flags: &[String]) -> Result<()> {
    let sets = part(spec, family)?.entry("datasets").or_insert_with(|| json!([]));
    let sets = sets.as_array_mut().ok_or_else(|| Error::invalid(format!("{family}.datasets: a list is wanted")))?;
    for flag in flags {
        let Given { name, weight, .. } = parse(flag)?;
        sets.push(json!({"name": name, "weight": weight}));
    }
    Ok(())
}

/// `NAME=FILE` or `NAME=FILE,WEIGHT`.
fn parse(flag: &str) -> Result<Given<'_>> {
    let wanted = || Error::invalid(format!("{flag:?}: NAME=FILE or NAME=FILE,WEIGHT is wanted"));
    let (name, rest) = flag.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(wanted)?;
    match rest.rsplit_once(',').and_then(|(path, weight)| Some((path, weight.parse().ok()?))) {
        Some((path, weight)) => Ok(Given { name, path: Path::new(path), weight }),
        None => Ok(Given { name, path: Path::new(rest), weight: 1.0 }),
    }
}

/// JSON, or TOML where the file's name says so.
fn object(bytes: &[u8], path: &Path) -> Result<Map<String, Value>> {
    if path.extension().is_none_or(|extension| extension != "toml") {
        return super::object(bytes, path);
    }
    let text = String::from_utf8_lossy(bytes);
    toml::from_str(&text).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))
}

/// Shows a run, and ends it at Ctrl-C with a checkpoint.
struct Watch {
    progress: Progress,
    interrupt: Interrupt,
}

impl Observer for Watch {
    fn event(&mut self, event: TrainingEvent) {
        match event {
            TrainingEvent::Step { step, steps, loss, tokens_per_second, .. } => {
                self.progress.set(&format!("loss {loss:.4} {tokens_per_second:.0} tokens/s"), step, Some(steps));
            }
            TrainingEvent::Measured(point) => {
                let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
                let cosine: Vec<String> = point.cosine.iter().map(|cosine| format!("{cosine:.2}")).collect();
                self.progress.line(&format!(
                    "step {} losses {} {} gradients {} {} cosine by layer {}",
                    point.step,
                    shown(point.ner_loss),
                    shown(point.classify_loss),
                    shown(point.ner_gradient_norm),
                    shown(point.classify_gradient_norm),
                    cosine.join(" ")
                ));
            }
            TrainingEvent::Message(message) => self.progress.line(&message),
            TrainingEvent::Evaluating => self.progress.line("calibrating"),
            _ => {}
        }
    }

    fn control(&mut self) -> Control {
        if self.interrupt.is_asked() { Control::Pause } else { Control::Continue }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_set_is_a_name_a_file_and_maybe_a_weight() {
        let check = |flag, name, path, weight| {
            let given = parse(flag).unwrap();
            assert_eq!((given.name, given.path, given.weight), (name, Path::new(path), weight), "{flag}");
        };
        check("a=b.jsonl", "a", "b.jsonl", 1.0);
        check("a=b.jsonl,0.5", "a", "b.jsonl", 0.5);
        check("a=b,c.jsonl", "a", "b,c.jsonl", 1.0);
        check("a=x=y.csv,2", "a", "x=y.csv", 2.0);
        assert!(parse("b.jsonl").is_err() && parse("=b").is_err());
    }
}
