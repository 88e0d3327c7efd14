//! The arms of a study as models: the plain backbone, and what pre-finetuning makes of it, once for each arm.

use super::folder::Folder;
use super::run::{Deadline, Pools};
use crate::app::wiring::{Model, ModelArgs};
use crate::domain::{Error, Result};
use crate::training::study::{Arm, ArmModel, ArmStrategy, Study};

/// All arms, pre-finetuned where they are not yet. None: the time was up before.
pub(super) fn ready(
    study: &Study,
    base: &Model,
    args: &ModelArgs,
    pools: &Pools,
    folder: &Folder,
    deadline: Deadline,
) -> Result<Option<Vec<ArmModel>>> {
    let mut models = Vec::new();
    for arm in &study.arms {
        let model = match arm.strategy {
            ArmStrategy::None => Some(plain(base)),
            _ => pre_finetuned(study, arm, (base, args), pools, folder, deadline)?,
        };
        let Some(model) = model else { return Ok(None) };
        models.push(model);
    }
    Ok(Some(models))
}

fn plain(base: &Model) -> ArmModel {
    ArmModel {
        encoder: base.encoder.clone(),
        tokenizer: base.tokenizer.clone(),
        fingerprint: base.fingerprint.clone(),
        ner: None,
        classify: None,
    }
}

fn pre_finetuned(
    _study: &Study,
    arm: &Arm,
    _model: (&Model, &ModelArgs),
    pools: &Pools,
    folder: &Folder,
    _deadline: Deadline,
) -> Result<Option<ArmModel>> {
    let (_, _) = (pools.ner.len(), pools.classify.len());
    let _ = (folder.arm(&arm.name), folder.account(&arm.name)?);
    Err(Error::unprocessable("pre-finetuning is not available in this version"))
}
