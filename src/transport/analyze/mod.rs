//! `/v1/analyze` and its gRPC twin: the same texts through many adapters.

mod grpc;
pub(super) mod http;
pub(super) mod wire;

pub(super) use grpc::analyze;

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::{Error, Result, TextInput};
use crate::serving::{AnalyzeRequest, AnalyzeTarget, Answer, Predictions, Timings};
use crate::transport::call::Call;
use crate::transport::classify::wire::ClassifyResult;
use crate::transport::ner::wire::NerResult;
use crate::transport::wire::{AdapterIdentity, Usage};
use wire::{AdapterFailure, AdapterResult, AnalyzeResponse};

/// Adapters of one request: each is a head and a set of deltas in the same pass.
const ADAPTERS_MAX: usize = 64;

/// Both protocols meet here.
pub(super) async fn answer(call: &Call, request: wire::AnalyzeRequest) -> Result<AnalyzeResponse> {
    let targets = targets(&request.adapters)?;
    let parameters = request.parameters.unwrap_or_default();
    let ner = parameters.ner.unwrap_or_default().into_domain()?;
    let classify = parameters.classify.unwrap_or_default().into_domain()?;
    let inputs = request.inputs.into_domain(call.api.inputs_max, false)?;
    let request = AnalyzeRequest { inputs: inputs.clone(), targets, ner, classify, deadline: call.deadline };
    let ner = request.ner.clone();
    let answers = fail_if_all_failed(call.inference().analyze(request).await?)?;
    let slowest = answers.iter().filter_map(|(_, answer)| Some(answer.as_ref().ok()?.timings)).max_by_key(total);
    call.answered(None, slowest.unwrap_or_default());
    let result = |at: usize, answer: &Result<Answer>| match answer {
        Ok(Answer { predictions: Predictions::Ner(predictions), .. }) => {
            AdapterResult::Ner(NerResult::new(&inputs[at], &predictions[at], &ner))
        }
        Ok(Answer { predictions: Predictions::Classify(predictions), .. }) => {
            AdapterResult::Classify(ClassifyResult::from(predictions[at].clone()))
        }
        Err(error) => AdapterResult::Failed(AdapterFailure::new(error)),
    };
    let of_input = |at: usize| answers.iter().map(|(asked, answer)| (asked.clone(), result(at, answer))).collect();
    let results: Vec<BTreeMap<String, AdapterResult>> = (0..inputs.len()).map(of_input).collect();
    let identity = |(asked, answer): &(String, Result<Answer>)| {
        let answer = answer.as_ref().ok()?;
        Some((asked.clone(), AdapterIdentity::new(&answer.adapter, &answer.backbone)))
    };
    Ok(AnalyzeResponse {
        id: call.account.id.clone(),
        object: "analyze",
        adapters: answers.iter().filter_map(identity).collect(),
        offset_unit: ner.offset_unit.into(),
        usage: usage(&inputs, &results),
        results,
    })
}

fn targets(adapters: &[String]) -> Result<Vec<AnalyzeTarget>> {
    if adapters.is_empty() || adapters.len() > ADAPTERS_MAX {
        let message = format!("adapters: {} of them; 1 to {ADAPTERS_MAX} are wanted", adapters.len());
        return Err(Error::invalid(message));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = adapters.iter().find(|adapter| !seen.insert(*adapter)) {
        return Err(Error::invalid(format!("adapters: {twice:?} is there twice")));
    }
    let target = |asked: &String| {
        let adapter = asked.parse().map_err(|e: Error| e.context("adapters"))?;
        Ok(AnalyzeTarget { asked: asked.clone(), adapter })
    };
    adapters.iter().map(target).collect()
}

/// One adapter that answers makes the request a success; if none does, the first failure is the request's.
fn fail_if_all_failed(answers: Vec<(String, Result<Answer>)>) -> Result<Vec<(String, Result<Answer>)>> {
    match answers.first() {
        Some((_, Err(first))) if answers.iter().all(|(_, answer)| answer.is_err()) => Err(first.clone()),
        _ => Ok(answers),
    }
}

fn total(timings: &Timings) -> std::time::Duration {
    timings.queue + timings.tokenize + timings.compute
}

/// An input is a sequence once, however many adapters read it.
fn usage(inputs: &[TextInput], results: &[BTreeMap<String, AdapterResult>]) -> Usage {
    let tokens = |of_input: &BTreeMap<String, AdapterResult>| {
        of_input.values().map(AdapterResult::tokens).max().unwrap_or_default()
    };
    Usage { sequences: inputs.len(), tokens: results.iter().map(tokens).sum() }
}
