//! `trunkline train`: the server's own jobs, in the foreground with a progress bar.

mod pre_finetune;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::app::commands::datasets::{ReadingArgs, tell};
use crate::app::commands::{print, read_file};
use crate::app::progress::Progress;
use crate::app::wiring::{ADAPTER_SERIES_MAX, ModelArgs, StoreArgs, block_on};
use crate::domain::{AdapterName, Error, Family, JobId, JobSpec, JobState, Result};
use crate::serving::jobs::{JobEvent, JobView, Jobs, JobsConfig, parse_spec};
use crate::serving::{Backbones, DatasetService, Upload};
use crate::telemetry::Metrics;

use pre_finetune::PreFinetuneArgs;

#[derive(Debug, Subcommand)]
pub(in crate::app) enum TrainCommand {
    /// Fine-tune an adapter and its head on labelled data, and publish it
    FineTune(Box<FineTuneArgs>),
    /// Train the backbone itself on many data sets of both families, and leave it with an adapter for each family to start from
    PreFinetune(Box<PreFinetuneArgs>),
}

#[derive(Debug, Args)]
pub(in crate::app) struct FineTuneArgs {
    /// The job as a JSON file, as POST /v1/admin/jobs takes it; flags below win over it
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
    /// The adapter's name
    #[arg(long)]
    adapter: Option<AdapterName>,
    /// ner or classify
    #[arg(long)]
    family: Option<Family>,
    /// An adapter to start from
    #[arg(long, value_name = "ADAPTER")]
    init_from: Option<String>,
    /// Training rows: a file, or DATASET:SPLIT of the state folder
    #[arg(long, value_name = "FILE|NAME:SPLIT")]
    train: Option<String>,
    /// Validation rows [default: a tenth of the training rows]
    #[arg(long, value_name = "FILE|NAME:SPLIT")]
    validation: Option<String>,
    /// Test rows, for the report alone
    #[arg(long, value_name = "FILE|NAME:SPLIT")]
    test: Option<String>,
    /// How the files among them are read
    #[command(flatten)]
    reading: ReadingArgs,
    /// Hyper-parameter: NAME=VALUE, as in epochs=8 or layers=last:4; again for more
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// activate, stage or never
    #[arg(long, value_parser = ["activate", "stage", "never"])]
    publish: Option<String>,
    /// Journal, checkpoints and datasets; a run that was interrupted goes on
    #[arg(long, default_value = "state", value_name = "DIR")]
    state_dir: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    store: StoreArgs,
}

pub(in crate::app) fn run(command: TrainCommand) -> Result<()> {
    match command {
        TrainCommand::FineTune(args) => fine_tune(&args),
        TrainCommand::PreFinetune(args) => pre_finetune::run(&args),
    }
}

fn fine_tune(args: &FineTuneArgs) -> Result<()> {
    let datasets = Arc::new(DatasetService::open(args.state_dir.join("datasets"))?);
    let spec = args.job(&datasets)?;
    let model = args.model.load()?;
    block_on(async {
        let metrics = Arc::new(Metrics::new(ADAPTER_SERIES_MAX));
        let backbones = Backbones::start(model.backbone()?, None, None, metrics.clone());
        let registry = args.store.registry(backbones, metrics.clone()).await?;
        // A folder of its own: the journal of a server with the same state folder is not ours to run.
        let config = JobsConfig { state_dir: args.state_dir.join("train"), threads: model.threads, queue_max: 1 };
        let jobs = Jobs::start(registry, datasets, metrics, config).await?;
        let id = go_on_or_submit(&jobs, spec).await?;
        let job = tokio::select! {
            job = follow(&jobs, &id) => job?,
            _ = tokio::signal::ctrl_c() => {
                jobs.shut_down().await;
                return Err(Error::unavailable(format!("interrupted; the same command goes on with {id} from its checkpoint")));
            }
        };
        conclude(&jobs, &job).await
    })
}

/// An interrupted run of the same job goes on; any other unfinished one makes room.
async fn go_on_or_submit(jobs: &Jobs, spec: JobSpec) -> Result<JobId> {
    let (list, _more) = jobs.list(None, 1).await?;
    match list.into_iter().find(|job| !job.status.is_final()) {
        Some(job) if job.spec == spec => Ok(job.id),
        Some(job) => {
            jobs.cancel(&job.id).await?;
            Ok(jobs.submit(spec).await?.id)
        }
        None => Ok(jobs.submit(spec).await?.id),
    }
}

/// Shows events until the job is over.
async fn follow(jobs: &Jobs, id: &JobId) -> Result<JobView> {
    let mut progress = Progress::steps("training");
    let mut after = 0;
    while jobs.wait_for_events(id, after).await? {
        for event in jobs.events(id, after, EVENTS_A_READ).await? {
            after = event.id;
            show(&mut progress, &event, &jobs.get(id).await?);
        }
    }
    progress.finish();
    jobs.get(id).await
}

/// One page of the event list.
const EVENTS_A_READ: usize = 100;

fn show(progress: &mut Progress, event: &JobEvent, job: &JobView) {
    let figure = |name: &str| event.data.get(name).and_then(Value::as_f64);
    let validation = event.data.get("validation").filter(|validation| validation.is_object());
    match (figure("loss"), figure("tokens_per_second"), validation) {
        (_, _, Some(validation)) => {
            progress.line(&format!("step {} validation {}", figure("step").unwrap_or_default(), figures(validation)));
        }
        (Some(loss), Some(speed), None) => {
            let text = format!("epoch {} loss {loss:.4} {speed:.0} tokens/s", job.epoch);
            progress.set(&text, job.step, Some(job.steps));
        }
        _ => progress.line(&format!("{}: {}", event.level, event.message)),
    }
}

/// `accuracy 0.9000, macro_f1 0.8900 on 40 rows`.
fn figures(validation: &Value) -> String {
    let measured = validation.as_object().into_iter().flatten().filter(|(name, _)| *name != "rows");
    let shown: Vec<String> =
        measured.filter_map(|(name, figure)| Some(format!("{name} {:.4}", figure.as_f64()?))).collect();
    format!("{} on {} rows", shown.join(", "), validation["rows"])
}

async fn conclude(jobs: &Jobs, job: &JobView) -> Result<()> {
    match (job.status, &job.error) {
        (JobState::Succeeded, _) => {}
        (status, Some((code, message))) => {
            return Err(Error::unprocessable(format!("the job {status}: {code}: {message}")));
        }
        (status, None) => return Err(Error::unprocessable(format!("the job was {status}"))),
    }
    let report = jobs.report(&job.id).await?;
    for part in ["validation", "test"] {
        if let Some(text) = report.get(part).and_then(summary) {
            print(&format!("{part:<11} {text}\n"))?;
        }
    }
    for warning in report["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        print(&format!("warning     {warning}\n"))?;
    }
    match &job.result {
        Some(v) => print(&format!(
            "published   {}@{} {}{}\n",
            v.name,
            v.version,
            v.digest,
            if v.active { " (active)" } else { " (staged)" }
        )),
        None => print("not published, as asked\n"),
    }
}

/// The headline figure of a split, its rows, and where the true one may be.
fn summary(report: &Value) -> Option<String> {
    let at = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64);
    let shown = match (at("/ner/micro/f1"), at("/classification/accuracy"), at("/classification/macro_average/f1")) {
        (Some(f1), ..) => format!("entity F1 {f1:.4}"),
        (_, Some(accuracy), Some(macro_f1)) => format!("accuracy {accuracy:.4}, macro F1 {macro_f1:.4}"),
        _ => return None,
    };
    let method = if report["method"] == "cross_validation" { ", cross-validated" } else { "" };
    let interval = at("/interval/0").zip(at("/interval/1")).map_or_else(String::new, |(low, high)| {
        format!("; {} {low:.2} to {high:.2}", report["interval_metric"].as_str().unwrap_or_default())
    });
    Some(format!("{shown} on {} rows{method}{interval}", report["rows"]))
}

impl FineTuneArgs {
    /// The spec file with the flags laid over it; files among the data become datasets first.
    fn job(&self, datasets: &DatasetService) -> Result<JobSpec> {
        let mut spec = match &self.spec {
            Some(path) => object(&read_file(path)?, path)?,
            None => Map::new(),
        };
        spec.insert("kind".to_owned(), json!("fine_tune"));
        let texts = [
            ("adapter", self.adapter.as_ref().map(ToString::to_string)),
            ("family", self.family.map(|f| f.to_string())),
            ("init_from", self.init_from.clone()),
            ("publish", self.publish.clone()),
        ];
        for (key, value) in texts {
            value.map(|value| spec.insert(key.to_owned(), Value::String(value)));
        }
        lay_settings(&self.settings, &mut spec)?;
        self.lay_data(&mut spec, datasets)?;
        parse_spec(Value::Object(spec))
    }

    fn lay_data(&self, spec: &mut Map<String, Value>, datasets: &DatasetService) -> Result<()> {
        let given = [("train", &self.train), ("validation", &self.validation), ("test", &self.test)];
        for (split, value) in given.into_iter().filter_map(|(split, value)| Some((split, value.as_ref()?))) {
            let reference = match Path::new(value) {
                path if path.is_file() => self.import(spec, datasets, split, path)?,
                _ => value.clone(),
            };
            part(spec, "data")?.insert(split.to_owned(), Value::String(reference));
        }
        Ok(())
    }

    /// A file as a split of the dataset `ADAPTER-files`, which is replaced by each run.
    fn import(&self, spec: &Map<String, Value>, datasets: &DatasetService, split: &str, path: &Path) -> Result<String> {
        let text = |key: &str| spec.get(key).and_then(Value::as_str).unwrap_or_default();
        let family: Family = text("family").parse()?;
        let name = format!("{}-files", text("adapter").parse::<AdapterName>()?);
        let options = self.reading.options(family.into())?;
        let upload = Upload { family: family.into(), split: split.to_owned(), options };
        let stored = datasets.put_as(&name, &upload, &read_file(path)?).map_err(|e| e.context(path.display()))?;
        tell(path, &stored.report);
        Ok(format!("{name}:{split}"))
    }
}

/// `NAME=VALUE` of each flag, under `hyperparameters`.
fn lay_settings(settings: &[String], spec: &mut Map<String, Value>) -> Result<()> {
    for setting in settings {
        let (name, value) = setting
            .split_once('=')
            .ok_or_else(|| Error::invalid(format!("--set {setting:?}: NAME=VALUE is wanted, as in epochs=8")))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        part(spec, "hyperparameters")?.insert(name.to_owned(), value);
    }
    Ok(())
}

fn object(bytes: &[u8], path: &Path) -> Result<Map<String, Value>> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::invalid(format!("{}: a JSON object is wanted: {e}", path.display())))
}

/// The object under `key`, made if missing.
fn part<'a>(spec: &'a mut Map<String, Value>, key: &str) -> Result<&'a mut Map<String, Value>> {
    let value = spec.entry(key).or_insert_with(|| Value::Object(Map::new()));
    value.as_object_mut().ok_or_else(|| Error::invalid(format!("{key}: an object is wanted")))
}
