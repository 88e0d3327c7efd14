//! What a run is between two steps: all weights with their moments, and the series of its report.

use std::collections::HashMap;

use crate::domain::{Error, Family, Result};
use crate::training::checkpoint::{Saved, Vectors, number};
use crate::training::optimizer::AdamW;
use crate::training::pre_finetune::series::Series;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    /// Steps made.
    pub step: u64,
    pub backbone: Trained,
    /// In the order of the strategy's families.
    pub primaries: Vec<(Family, Trained)>,
    pub series: Series,
}

/// Weights under an optimizer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Trained {
    pub weights: Vec<f32>,
    pub adam: AdamW,
}

impl Trained {
    pub(super) fn new(weights: Vec<f32>) -> Self {
        let adam = AdamW::new(weights.len());
        Self { weights, adam }
    }
}

impl State {
    /// The backbone's and each primary's.
    pub(super) fn weights(&self) -> Vec<Vec<f32>> {
        self.parts().map(|(_, trained)| trained.weights.clone()).collect()
    }

    fn parts(&self) -> impl Iterator<Item = (&'static str, &Trained)> {
        let primaries = self.primaries.iter().map(|(family, trained)| (family.as_str(), trained));
        std::iter::once(("backbone", &self.backbone)).chain(primaries)
    }
}

impl Saved for State {
    fn step(&self) -> u64 {
        self.step
    }

    fn metadata(&self) -> HashMap<String, String> {
        let families: Vec<&str> = self.primaries.iter().map(|(family, _)| family.as_str()).collect();
        let mut metadata = HashMap::from([
            ("step".to_owned(), self.step.to_string()),
            ("families".to_owned(), families.join(" ")),
            ("series".to_owned(), self.series.to_text()),
        ]);
        for (part, trained) in self.parts() {
            metadata.insert(format!("{part}.updates"), trained.adam.updates.to_string());
        }
        metadata
    }

    fn vectors(&self) -> Vec<(String, &[f32])> {
        let mut vectors: Vec<(String, &[f32])> = Vec::new();
        for (part, Trained { weights, adam }) in self.parts() {
            vectors.push((format!("{part}.weights"), weights));
            vectors.push((format!("{part}.first_moment"), &adam.first));
            vectors.push((format!("{part}.second_moment"), &adam.second));
        }
        vectors
    }

    fn restore(metadata: &HashMap<String, String>, vectors: &Vectors<'_>) -> Result<Self> {
        let part = |name: &str| {
            let adam = AdamW {
                first: vectors.get(&format!("{name}.first_moment"))?,
                second: vectors.get(&format!("{name}.second_moment"))?,
                updates: number(metadata, &format!("{name}.updates"))?,
            };
            Ok::<_, Error>(Trained { weights: vectors.get(&format!("{name}.weights"))?, adam })
        };
        let text = |key: &str| metadata.get(key).map(String::as_str).unwrap_or_default();
        let families = text("families").split_whitespace().map(str::parse::<Family>);
        Ok(Self {
            step: number(metadata, "step")?,
            backbone: part("backbone")?,
            primaries: families
                .map(|family| family.and_then(|family| Ok((family, part(family.as_str())?))))
                .collect::<Result<_>>()?,
            series: Series::from_text(text("series"))?,
        })
    }
}
