//! Where a run begins when its rows are few: LoRA after a contrast between the classes' texts, a classifier at its classes'
//! centres (after SetFit, Tunstall et al. 2022, whose classifier is fitted to contrasted embeddings), a tagger at its types'
//! names where the adapter to start from compares tokens with names. Leaves the training itself to `trainer`.

mod contrast;
mod head;
mod pooled;

use crate::adapter::AdapterBundle;
use crate::domain::{Family, HeadForm, ProblemType};
use crate::model::Encoder;
use crate::text::Tokenizer;
use crate::training::dataset::Example;
use crate::training::predict::Held;
use crate::training::settle::Recipe;
use crate::training::variables::Variables;
use crate::training::workers::{Run, Steer, Workers};

/// A class or type with more rows than this learns its own row of a head soon enough.
const ROWS_A_LABEL_MAX: usize = 64;

/// Whether `rows` of so many labels are few.
pub(super) fn are_few(rows: usize, labels: usize) -> bool {
    rows <= ROWS_A_LABEL_MAX * labels
}

/// What a warm start reads.
pub(super) struct WarmStart<'a> {
    pub encoder: &'a Encoder,
    pub tokenizer: &'a Tokenizer,
    /// Made of `variables`.
    pub adapter: &'a AdapterBundle,
    pub variables: &'a Variables,
    pub training: &'a Held<'a>,
    pub examples: &'a [Example],
    /// The adapter the run starts from.
    pub init: Option<&'a AdapterBundle>,
    pub recipe: &'a Recipe,
    pub workers: Workers,
}

impl WarmStart<'_> {
    /// Changes `weights`, the variables' values, where there is something to gain; tells what it did. The same setup gives the
    /// same weights.
    pub(super) fn run(&self, weights: &mut [f32], steer: Steer<'_>) -> Run<Vec<String>> {
        let mut done = Vec::new();
        if self.tells_texts_apart() {
            if let Some(steps) = self.contrast(weights, steer)? {
                done.push(format!("warm start: {steps} steps of contrast between the classes' texts"));
            }
            if self.centre_classes(weights, steer)? {
                done.push("warm start: the head begins at its classes' centres".to_owned());
            }
        } else if self.knows_types() && self.name_types(weights, steer)? {
            done.push("warm start: the head begins at its types' names".to_owned());
        }
        self.variables.set(weights)?;
        Ok(done)
    }

    /// One class a text, told by the mean of its tokens: a class has a centre.
    fn tells_texts_apart(&self) -> bool {
        let card = &self.adapter.card;
        card.family == Family::Classify && card.problem_type == ProblemType::SingleLabel && card.pooling == "mean"
    }

    fn knows_types(&self) -> bool {
        let knows_names = self.init.is_some_and(|init| init.card.head == HeadForm::Concepts);
        self.adapter.card.family == Family::Ner && knows_names
    }
}
