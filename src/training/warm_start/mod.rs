//! Where a run begins when its rows are few: LoRA after a contrast between the classes' texts, a classifier at its classes'
//! centres (after SetFit, Tunstall et al. 2022, whose classifier is fitted to contrasted embeddings), a tagger at its types'
//! names where the adapter to start from compares tokens with names, and those say something. Leaves the training itself to `trainer`.

mod contrast;
mod head;
mod pooled;

use crate::adapter::AdapterBundle;
use crate::domain::{Family, HeadForm, ProblemType};
use crate::model::Encoder;
use crate::text::Tokenizer;
use crate::training::dataset::Example;
use crate::training::evaluate::Asked;
use crate::training::predict::Held;
use crate::training::settle::Recipe;
use crate::training::variables::Variables;
use crate::training::workers::{Run, Steer, Workers};

/// A class or type with more rows than this learns its own row of a head soon enough.
const ROWS_A_LABEL_MAX: usize = 64;

/// Training rows that the types' names are tried on: enough to tell, and less work than a step or two.
const ROWS_ASKED_MAX: usize = 256;

/// Names that find less say nothing.
const NAMES_F1_MIN: f64 = 0.1;

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
        } else if self.knows_types() {
            done.extend(self.begin_at_names(weights, steer)?);
        }
        self.variables.set(weights)?;
        Ok(done)
    }

    /// The head begins at its types' names where they say something of the training rows, which it has not seen yet: names such as
    /// `B5` or `misc` mean nothing to the adapter to start from, and a head that is sure of the wrong words has to unlearn them first.
    fn begin_at_names(&self, weights: &mut [f32], steer: Steer<'_>) -> Run<Option<String>> {
        let before = weights.to_vec();
        if !self.name_types(weights, steer)? {
            return Ok(None);
        }
        self.variables.set(weights)?;
        let rows = &self.examples[..self.examples.len().min(ROWS_ASKED_MAX)];
        let both = (self.encoder, self.tokenizer);
        let held = Held::prepare(both, self.adapter, rows, &mut 0, self.workers, steer)?;
        let asked = Asked::usual(Family::Ner, false);
        let found = held.evaluate(self.encoder, self.adapter, "train", asked, self.workers, steer)?;
        let f1 = found.metric(asked.metric).unwrap_or_default();
        if f1 >= NAMES_F1_MIN {
            return Ok(Some(format!(
                "warm start: the head begins at its types' names, which find the training rows' entities with F1 {f1:.2}"
            )));
        }
        weights.copy_from_slice(&before);
        Ok(Some(format!(
            "no warm start: the types' names find the training rows' entities with F1 {f1:.2} alone; the head begins from nothing"
        )))
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
