//! What a run needs to go on after a restart as if nothing had happened: one safetensors file, written whole or not at all.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::domain::{Error, Result};
use crate::training::optimizer::AdamW;

/// The newest, and the one before it in case the newest cannot be read.
const CHECKPOINTS_KEPT: usize = 2;

const SUFFIX: &str = ".safetensors";

/// A run between two steps.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    /// Steps made.
    pub step: u64,
    pub weights: Vec<f32>,
    /// The exponential mean of the weights so far: what is validated and kept.
    pub average: Vec<f32>,
    pub adam: AdamW,
    pub best: Option<Best>,
    /// The step after which the last validation was.
    pub validated: u64,
    /// Epochs since the best one.
    pub stale_epochs: u32,
    /// One for each step.
    pub losses: Vec<f32>,
}

/// The weights with the best validation score.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Best {
    pub step: u64,
    pub score: f64,
    pub weights: Vec<f32>,
}

impl State {
    pub(super) fn new(weights: Vec<f32>) -> Self {
        let adam = AdamW::new(weights.len());
        Self {
            step: 0,
            average: weights.clone(),
            weights,
            adam,
            best: None,
            validated: 0,
            stale_epochs: 0,
            losses: Vec::new(),
        }
    }
}

/// The checkpoints of one run.
pub(super) struct Checkpoints {
    pub folder: PathBuf,
    /// Digest of everything that decides the run's course; a checkpoint of another run is not ours to go on from.
    pub run: String,
    /// How the batches were shared out: with another number the sums differ in their last bits.
    pub threads: usize,
}

/// What the folder held.
#[derive(Debug, PartialEq)]
pub(super) struct Found {
    pub state: State,
    pub threads: usize,
}

impl Checkpoints {
    /// Writes `state` beside its place, syncs it, and renames it there; older ones go.
    pub(super) fn save(&self, state: &State) -> Result<PathBuf> {
        let path = self.folder.join(format!("step-{:010}{SUFFIX}", state.step));
        self.write(&path, &self.encode(state)?).map_err(|error| error.context(path.display()))?;
        let stale = self.newest_first()?.into_iter().skip(CHECKPOINTS_KEPT);
        stale.for_each(|path| drop(fs::remove_file(path))); // one too many costs a little disk
        Ok(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        let unfinished = path.with_extension("tmp");
        let mut file = File::create(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        Ok(File::open(&self.folder)?.sync_all()?)
    }

    /// The newest checkpoint of this run that can be read, and why newer ones were passed over.
    pub(super) fn latest(&self) -> Result<(Option<Found>, Vec<String>)> {
        let mut passed_over = Vec::new();
        for path in self.newest_first()? {
            match fs::read(&path).map_err(Error::from).and_then(|bytes| self.decode(&bytes)) {
                Ok(found) => return Ok((Some(found), passed_over)),
                Err(error) => {
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    passed_over.push(format!("checkpoint {name} is not used: {}", error.message()));
                }
            }
        }
        Ok((None, passed_over))
    }

    fn newest_first(&self) -> Result<Vec<PathBuf>> {
        if !self.folder.exists() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(&self.folder)?.collect::<std::io::Result<Vec<_>>>()?;
        let is_ours = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("step-") && name.ends_with(SUFFIX)
        };
        let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).filter(is_ours).collect();
        paths.sort_unstable_by(|a, b| b.cmp(a));
        Ok(paths)
    }

    fn encode(&self, state: &State) -> Result<Vec<u8>> {
        let mut metadata = HashMap::from([
            ("run".to_owned(), self.run.clone()),
            ("threads".to_owned(), self.threads.to_string()),
            ("step".to_owned(), state.step.to_string()),
            ("updates".to_owned(), state.adam.updates.to_string()),
            ("validated".to_owned(), state.validated.to_string()),
            ("stale_epochs".to_owned(), state.stale_epochs.to_string()),
        ]);
        let mut vectors = vec![
            ("weights", &state.weights),
            ("average", &state.average),
            ("first_moment", &state.adam.first),
            ("second_moment", &state.adam.second),
            ("losses", &state.losses),
        ];
        if let Some(best) = &state.best {
            metadata.insert("best_step".to_owned(), best.step.to_string());
            metadata.insert("best_score".to_owned(), best.score.to_string()); // shortest form: reads back exactly
            vectors.push(("best_weights", &best.weights));
        }
        let bytes: Vec<_> = vectors.iter().map(|(name, vector)| (*name, vector.len(), to_bytes(vector))).collect();
        let views = bytes.iter().map(|(name, length, bytes)| {
            let view = TensorView::new(Dtype::F32, vec![*length], bytes);
            view.map(|view| (*name, view)).map_err(|error| unwritable(&error))
        });
        let views: Vec<_> = views.collect::<Result<_>>()?;
        safetensors::serialize(views, Some(metadata)).map_err(|error| unwritable(&error))
    }

    fn decode(&self, bytes: &[u8]) -> Result<Found> {
        let damaged = |error: safetensors::SafeTensorError| Error::internal(format!("it is damaged: {error}"));
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let metadata = metadata.metadata().clone().unwrap_or_default();
        if metadata.get("run") != Some(&self.run) {
            return Err(Error::conflict("it belongs to another spec, data or backbone"));
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
        let vector = |name| tensors.tensor(name).map(|view| from_bytes(view.data())).map_err(damaged);
        let best = metadata.contains_key("best_step").then(|| {
            Ok::<_, Error>(Best {
                step: number(&metadata, "best_step")?,
                score: number(&metadata, "best_score")?,
                weights: vector("best_weights")?,
            })
        });
        let adam = AdamW {
            first: vector("first_moment")?,
            second: vector("second_moment")?,
            updates: number(&metadata, "updates")?,
        };
        let state = State {
            step: number(&metadata, "step")?,
            weights: vector("weights")?,
            average: vector("average")?,
            adam,
            best: best.transpose()?,
            validated: number(&metadata, "validated")?,
            stale_epochs: number(&metadata, "stale_epochs")?,
            losses: vector("losses")?,
        };
        Ok(Found { state, threads: number(&metadata, "threads")? })
    }
}

fn unwritable(error: &safetensors::SafeTensorError) -> Error {
    Error::internal(format!("the checkpoint cannot be written: {error}"))
}

fn number<T: FromStr>(metadata: &HashMap<String, String>, key: &str) -> Result<T> {
    let value = metadata.get(key).and_then(|text| text.parse().ok());
    value.ok_or_else(|| Error::internal(format!("it is damaged: {key} is not a number")))
}

fn to_bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn from_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&number| f32::from_le_bytes(number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(step: u64) -> State {
        let best = Best { step: 7, score: 0.1 + 0.2, weights: vec![0.5, f32::MIN_POSITIVE] };
        let adam = AdamW { first: vec![1e-20, -3.5], second: vec![0.1, 0.2], updates: step };
        State {
            step,
            weights: vec![1.5, -0.1],
            average: vec![0.0, 0.3],
            adam,
            best: Some(best),
            validated: 1,
            stale_epochs: 2,
            losses: vec![0.7; 3],
        }
    }

    fn checkpoints(folder: &Path, run: &str) -> Checkpoints {
        Checkpoints { folder: folder.join("checkpoints"), run: run.to_owned(), threads: 2 }
    }

    #[test]
    fn a_state_comes_back_bit_for_bit() {
        let folder = tempfile::tempdir().expect("a folder");
        let ours = checkpoints(folder.path(), "run");
        assert_eq!(ours.latest().expect("no folder yet"), (None, vec![]));
        ours.save(&state(11)).expect("written");
        let fresh = State { best: None, ..state(12) };
        ours.save(&fresh).expect("written");
        let (found, passed_over) = ours.latest().expect("readable");
        assert_eq!(found, Some(Found { state: fresh, threads: 2 }));
        assert!(passed_over.is_empty());
    }

    #[test]
    fn only_the_newest_two_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let ours = checkpoints(folder.path(), "run");
        (1..=5).for_each(|step| drop(ours.save(&state(step)).expect("written")));
        let files = fs::read_dir(&ours.folder).expect("a folder").count();
        assert_eq!((files, ours.latest().expect("readable").0.map(|found| found.state.step)), (2, Some(5)));
    }

    #[test]
    fn a_damaged_or_foreign_checkpoint_is_passed_over_and_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let ours = checkpoints(folder.path(), "run");
        ours.save(&state(1)).expect("written");
        let newest = ours.save(&state(2)).expect("written");
        let bytes = fs::read(&newest).expect("readable");
        fs::write(&newest, &bytes[..bytes.len() - 3]).expect("writable");
        let (found, passed_over) = ours.latest().expect("readable");
        assert_eq!(found.map(|found| found.state.step), Some(1));
        assert!(passed_over[0].contains("step-0000000002.safetensors is not used: it is damaged"), "{passed_over:?}");

        let (found, passed_over) = checkpoints(folder.path(), "another").latest().expect("readable");
        assert_eq!(found, None);
        assert!(passed_over[1].ends_with("it belongs to another spec, data or backbone"), "{passed_over:?}");
    }
}
