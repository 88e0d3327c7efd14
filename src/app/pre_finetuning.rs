//! A pre-finetuning run without server or journal: from a spec and rows to a folder with the backbone, its primaries and the report.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::adapter::AdapterFiles;
use crate::app::wiring::Model;
use crate::backbone::{BackboneInfo, derive};
use crate::domain::{Error, Family, PreFinetuneSpec, Result};
use crate::training::{Control, Observer, PoolSet, PreFinetuneOutcome, PreFinetuneSetup, PreFinetuned, pre_finetune};

/// Where a run that is not over keeps its checkpoints, below its folder.
const CHECKPOINTS: &str = "checkpoints";

/// What a run left below its folder.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) backbone: BackboneInfo,
    /// PEFT folders, with their cards.
    pub(super) ner_primary: PathBuf,
    pub(super) classify_primary: PathBuf,
    /// `report.json`
    pub(super) report: Value,
    pub(super) steps_per_second: f64,
}

/// Runs `spec` on the rows given and leaves everything under `out`, each part under the name the spec gives it, with
/// `report.json` and its plots beside. A run that was interrupted goes on from its checkpoint there. None: stopped, as the
/// observer asked. Blocking.
pub(super) fn run(
    model: &Model,
    spec: &PreFinetuneSpec,
    (ner, classify): (Vec<PoolSet>, Vec<PoolSet>),
    out: &Path,
    observer: &mut dyn Observer,
) -> Result<Option<Left>> {
    let setup = PreFinetuneSetup {
        encoder: model.encoder.clone(),
        tokenizer: model.tokenizer.clone(),
        fingerprint: model.fingerprint.clone(),
        spec: spec.clone(),
        ner,
        classify,
        checkpoint_folder: out.join(CHECKPOINTS),
        threads: model.threads,
    };
    match pre_finetune(setup, observer)? {
        PreFinetuneOutcome::Finished(trained) => leave(&trained, &model.folder, spec, out).map(Some),
        PreFinetuneOutcome::Stopped(Control::Cancel | Control::Pause | Control::Continue) => Ok(None),
    }
}

fn leave(trained: &PreFinetuned, parent: &Path, spec: &PreFinetuneSpec, out: &Path) -> Result<Left> {
    let write_weights = |path: &Path| trained.write_weights(path);
    let outputs = &spec.outputs;
    let backbone = derive(parent, &out.join(outputs.backbone.as_str()), &trained.provenance, write_weights)?;
    let primary = |family: Family| {
        let folder = out.join(outputs.primary(family).as_str());
        write_adapter(&trained.primary(family, &backbone.fingerprint)?, &folder)?;
        Ok::<_, Error>(folder)
    };
    let (ner_primary, classify_primary) = (primary(Family::Ner)?, primary(Family::Classify)?);
    let json = serde_json::to_vec_pretty(&trained.report).expect("a JSON value has a text");
    write(&out.join("report.json"), &json)?;
    for (name, svg) in trained.report.pointer("/pre_finetune/plots").and_then(Value::as_object).into_iter().flatten() {
        write(&out.join(name), svg.as_str().unwrap_or_default().as_bytes())?;
    }
    drop(fs::remove_dir_all(out.join(CHECKPOINTS))); // what stays costs space alone
    let (report, steps_per_second) = (trained.report.clone(), trained.steps_per_second);
    Ok(Left { backbone, ner_primary, classify_primary, report, steps_per_second })
}

fn write_adapter(files: &AdapterFiles, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::from(e).context(folder.display()))?;
    files.entries().try_for_each(|(name, contents)| write(&folder.join(name), contents))
}

fn write(path: &Path, contents: &[u8]) -> Result<()> {
    fs::write(path, contents).map_err(|e| Error::from(e).context(path.display()))
}
