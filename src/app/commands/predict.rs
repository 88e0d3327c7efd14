//! `trunkline predict`: one answer on the terminal, by the server's own request path.

use std::io::BufRead;

use clap::Args;

use crate::app::commands::{json, print};
use crate::app::wiring::{ModelArgs, StoreArgs, block_on, local_inference};
use crate::domain::{
    AdapterRef, CandidateLabels, ClassifyParameters, ClassifyPrediction, Error, Family, HypothesisTemplate,
    NerParameters, NerPrediction, Result, TextInput,
};
use crate::serving::{Caller, Inference, InferenceRequest, Predictions, Task};

#[derive(Debug, Args)]
pub(in crate::app) struct PredictArgs {
    /// ner or classify
    family: Family,
    /// The text; without it, each line of standard input
    text: Option<String>,
    /// Adapter: a name, name@version or an alias [default: default-ner or default-classify]
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<AdapterRef>,
    /// Zero-shot: the entity types or classes to look for, separated by commas, with an adapter that compares with names
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    candidate_labels: Option<Vec<String>>,
    /// Zero-shot classification: what is encoded of each class, its name in place of {} [default: {}]
    #[arg(long, value_name = "TEXT")]
    hypothesis_template: Option<String>,
    /// Print JSON, one document a text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    store: StoreArgs,
}

impl PredictArgs {
    fn task(&self) -> Result<Task> {
        let named = |names: &Vec<String>| {
            CandidateLabels::new(names.clone()).map_err(|error| error.context("--candidate-labels"))
        };
        let candidate_labels = self.candidate_labels.as_ref().map(named).transpose()?;
        let template = self.hypothesis_template.clone().map(HypothesisTemplate::new).transpose();
        let hypothesis_template = template.map_err(|error| error.context("--hypothesis-template"))?;
        if hypothesis_template.is_some() && (self.family == Family::Ner || candidate_labels.is_none()) {
            return Err(Error::invalid("--hypothesis-template: it is for classify with --candidate-labels"));
        }
        Ok(match self.family {
            Family::Ner => Task::Ner(NerParameters { candidate_labels, ..NerParameters::default() }),
            Family::Classify => Task::Classify(ClassifyParameters {
                candidate_labels,
                hypothesis_template: hypothesis_template.unwrap_or_default(),
                ..ClassifyParameters::default()
            }),
        })
    }
}

pub(in crate::app) fn run(args: PredictArgs) -> Result<()> {
    let task = args.task()?;
    let model = args.model.load()?;
    block_on(async {
        let inference = local_inference(&model, &args.store).await?;
        if let Some(text) = &args.text {
            return answer(&inference, &args, &task, text.clone()).await;
        }
        for line in std::io::stdin().lock().lines() {
            answer(&inference, &args, &task, line?).await?;
        }
        Ok(())
    })
}

async fn answer(inference: &Inference, args: &PredictArgs, task: &Task, text: String) -> Result<()> {
    let task = task.clone();
    let inputs = vec![TextInput::Text(text.clone())];
    let request =
        InferenceRequest { task, adapter: args.adapter.clone(), inputs, deadline: None, caller: Caller::stream() };
    match inference.infer(request).await?.predictions {
        Predictions::Ner(found) => found.iter().try_for_each(|p| print(&entities(&text, p, args.json)?)),
        Predictions::Classify(found) => found.iter().try_for_each(|p| print(&labels(p, args.json)?)),
    }
}

fn entities(text: &str, prediction: &NerPrediction, as_json: bool) -> Result<String> {
    let word = |e: &crate::domain::Entity| text.get(e.range.clone()).unwrap_or_default().to_owned();
    if as_json {
        let list: Vec<_> = prediction
            .entities
            .iter()
            .map(|e| serde_json::json!({"entity_group": e.label, "score": e.score, "word": word(e), "start": e.range.start, "end": e.range.end}))
            .collect();
        return json(&serde_json::json!({"text": text, "offset_unit": "byte", "entities": list}));
    }
    let line = |e: &crate::domain::Entity| format!("{:<20} {:.3}  {}\n", e.label, e.score, word(e));
    let found: String = prediction.entities.iter().map(line).collect();
    Ok(if found.is_empty() { "no entities\n".to_owned() } else { found })
}

fn labels(prediction: &ClassifyPrediction, as_json: bool) -> Result<String> {
    if as_json {
        let list: Vec<_> =
            prediction.labels.iter().map(|l| serde_json::json!({"label": l.label, "score": l.score})).collect();
        return json(&serde_json::json!({ "labels": list }));
    }
    Ok(prediction.labels.iter().take(LABELS_SHOWN).map(|l| format!("{:<30} {:.3}\n", l.label, l.score)).collect())
}

/// A terminal wants the best few; `--json` has them all.
const LABELS_SHOWN: usize = 5;
