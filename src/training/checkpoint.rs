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
    /// The step after which the best score so far was reached first.
    pub improved: u64,
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
            improved: 0,
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

/// What a checkpoint keeps: words, and vectors of numbers.
pub(super) trait Saved: Sized {
    /// Steps made.
    fn step(&self) -> u64;
    fn metadata(&self) -> HashMap<String, String>;
    /// Named, in any order.
    fn vectors(&self) -> Vec<(String, &[f32])>;
    /// From what [`Saved::metadata`] and [`Saved::vectors`] gave.
    fn restore(metadata: &HashMap<String, String>, vectors: &Vectors<'_>) -> Result<Self>;
}

/// What the folder held.
#[derive(Debug, PartialEq)]
pub(super) struct Found<S> {
    pub state: S,
    pub threads: usize,
}

impl Checkpoints {
    /// Writes `state` beside its place, syncs it, and renames it there; older ones go.
    pub(super) fn save(&self, state: &impl Saved) -> Result<PathBuf> {
        let path = self.folder.join(format!("step-{:010}{SUFFIX}", state.step()));
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
    pub(super) fn latest<S: Saved>(&self) -> Result<(Option<Found<S>>, Vec<String>)> {
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

    fn encode(&self, state: &impl Saved) -> Result<Vec<u8>> {
        let mut metadata = state.metadata();
        metadata.insert("run".to_owned(), self.run.clone());
        metadata.insert("threads".to_owned(), self.threads.to_string());
        let vectors = state.vectors();
        let bytes: Vec<_> = vectors.into_iter().map(|(name, vector)| (name, vector.len(), to_bytes(vector))).collect();
        let views = bytes.iter().map(|(name, length, bytes)| {
            let view = TensorView::new(Dtype::F32, vec![*length], bytes);
            view.map(|view| (name, view)).map_err(|error| unwritable(&error))
        });
        let views: Vec<_> = views.collect::<Result<_>>()?;
        safetensors::serialize(views, Some(metadata)).map_err(|error| unwritable(&error))
    }

    fn decode<S: Saved>(&self, bytes: &[u8]) -> Result<Found<S>> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let metadata = metadata.metadata().clone().unwrap_or_default();
        if metadata.get("run") != Some(&self.run) {
            return Err(Error::conflict("it belongs to another spec, data or backbone"));
        }
        let vectors = Vectors(SafeTensors::deserialize(bytes).map_err(damaged)?);
        Ok(Found { state: S::restore(&metadata, &vectors)?, threads: number(&metadata, "threads")? })
    }
}

impl Saved for State {
    fn step(&self) -> u64 {
        self.step
    }

    fn metadata(&self) -> HashMap<String, String> {
        let mut metadata = HashMap::from([
            ("step".to_owned(), self.step.to_string()),
            ("updates".to_owned(), self.adam.updates.to_string()),
            ("validated".to_owned(), self.validated.to_string()),
            ("improved".to_owned(), self.improved.to_string()),
        ]);
        if let Some(best) = &self.best {
            metadata.insert("best_step".to_owned(), best.step.to_string());
            metadata.insert("best_score".to_owned(), best.score.to_string()); // shortest form: reads back exactly
        }
        metadata
    }

    fn vectors(&self) -> Vec<(String, &[f32])> {
        let vectors: [(&str, &[f32]); 5] = [
            ("weights", &self.weights),
            ("average", &self.average),
            ("first_moment", &self.adam.first),
            ("second_moment", &self.adam.second),
            ("losses", &self.losses),
        ];
        let best = self.best.iter().map(|best| ("best_weights", &best.weights[..]));
        vectors.into_iter().chain(best).map(|(name, vector)| (name.to_owned(), vector)).collect()
    }

    fn restore(metadata: &HashMap<String, String>, vectors: &Vectors<'_>) -> Result<Self> {
        let best = metadata.contains_key("best_step").then(|| {
            Ok::<_, Error>(Best {
                step: number(metadata, "best_step")?,
                score: number(metadata, "best_score")?,
                weights: vectors.get("best_weights")?,
            })
        });
        let adam = AdamW {
            first: vectors.get("first_moment")?,
            second: vectors.get("second_moment")?,
            updates: number(metadata, "updates")?,
        };
        Ok(Self {
            step: number(metadata, "step")?,
            weights: vectors.get("weights")?,
            average: vectors.get("average")?,
            adam,
            best: best.transpose()?,
            validated: number(metadata, "validated")?,
            improved: number(metadata, "improved")?,
            losses: vectors.get("losses")?,
        })
    }
}

/// The vectors of a checkpoint by name.
pub(super) struct Vectors<'a>(SafeTensors<'a>);

impl Vectors<'_> {
    pub(super) fn get(&self, name: &str) -> Result<Vec<f32>> {
        self.0.tensor(name).map(|view| from_bytes(view.data())).map_err(damaged)
    }
}

fn damaged(error: safetensors::SafeTensorError) -> Error {
    Error::internal(format!("it is damaged: {error}"))
}

fn unwritable(error: &safetensors::SafeTensorError) -> Error {
    Error::internal(format!("the checkpoint cannot be written: {error}"))
}

/// The number under `key`.
pub(super) fn number<T: FromStr>(metadata: &HashMap<String, String>, key: &str) -> Result<T> {
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
            improved: 2,
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
        assert_eq!(ours.latest::<State>().expect("no folder yet"), (None, vec![]));
        ours.save(&state(11)).expect("written");
        let fresh = State { best: None, ..state(12) };
        ours.save(&fresh).expect("written");
        let (found, passed_over) = ours.latest::<State>().expect("readable");
        assert_eq!(found, Some(Found { state: fresh, threads: 2 }));
        assert!(passed_over.is_empty());
    }

    #[test]
    fn only_the_newest_two_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let ours = checkpoints(folder.path(), "run");
        (1..=5).for_each(|step| drop(ours.save(&state(step)).expect("written")));
        let files = fs::read_dir(&ours.folder).expect("a folder").count();
        assert_eq!((files, ours.latest::<State>().expect("readable").0.map(|found| found.state.step)), (2, Some(5)));
    }

    #[test]
    fn a_damaged_or_foreign_checkpoint_is_passed_over_and_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let ours = checkpoints(folder.path(), "run");
        ours.save(&state(1)).expect("written");
        let newest = ours.save(&state(2)).expect("written");
        let bytes = fs::read(&newest).expect("readable");
        fs::write(&newest, &bytes[..bytes.len() - 3]).expect("writable");
        let (found, passed_over) = ours.latest::<State>().expect("readable");
        assert_eq!(found.map(|found| found.state.step), Some(1));
        assert!(passed_over[0].contains("step-0000000002.safetensors is not used: it is damaged"), "{passed_over:?}");

        let (found, passed_over) = checkpoints(folder.path(), "another").latest::<State>().expect("readable");
        assert_eq!(found, None);
        assert!(passed_over[1].ends_with("it belongs to another spec, data or backbone"), "{passed_over:?}");
    }
}
