//! What a run measures as it goes: losses between two measurements, gradient norms, and how the families' gradients agree in each layer.

use serde_json::{Value, json};

use crate::domain::{Error, Result};

/// Points of a report; measurements are rarer where a run would make more.
pub(super) const POINTS_MAX: u64 = 400;

/// One measurement.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measurement {
    /// Steps made.
    pub step: u64,
    /// Means since the measurement before, in units of chance.
    pub ner_loss: Option<f64>,
    pub classify_loss: Option<f64>,
    pub backbone_learning_rate: f64,
    pub adapter_learning_rate: f64,
    /// Of each family's gradient by the backbone's weights, before clipping.
    pub ner_gradient_norm: Option<f64>,
    pub classify_gradient_norm: Option<f64>,
    /// Between the two families' gradients, a layer at a time from the bottom; empty where one family is trained alone.
    pub cosine: Vec<f64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Series {
    pub points: Vec<Measurement>,
    /// Sums of the losses since the last point: NER's and classification's.
    sums: [f64; 2],
    steps: u64,
}

impl Series {
    /// Counts a step's losses, of NER and of classification; zero where there is none.
    pub(super) fn count(&mut self, losses: [f64; 2]) {
        self.sums.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += loss);
        self.steps += 1;
    }

    /// The mean losses since the last call.
    pub(super) fn take_means(&mut self) -> [f64; 2] {
        let steps = std::mem::take(&mut self.steps).max(1) as f64;
        std::mem::take(&mut self.sums).map(|sum| sum / steps)
    }

    /// A line for the running sums, then one a point; numbers in their shortest form, which reads back exactly.
    pub(super) fn to_text(&self) -> String {
        let sums = format!("{} {:?} {:?}", self.steps, self.sums[0], self.sums[1]);
        let lines = self.points.iter().map(Measurement::to_line);
        std::iter::once(sums).chain(lines).collect::<Vec<_>>().join("\n")
    }

    pub(super) fn from_text(text: &str) -> Result<Self> {
        let damaged = || Error::internal("it is damaged: series");
        let mut lines = text.lines();
        let sums = lines.next().ok_or_else(damaged)?.split(' ').collect::<Vec<_>>();
        let [steps, ner, classify] = sums.as_slice() else { return Err(damaged()) };
        let sum = |text: &str| text.parse::<f64>().map_err(|_| damaged());
        Ok(Self {
            steps: steps.parse().map_err(|_| damaged())?,
            sums: [sum(ner)?, sum(classify)?],
            points: lines.map(|line| Measurement::from_line(line).ok_or_else(damaged)).collect::<Result<_>>()?,
        })
    }
}

impl Measurement {
    /// As events and reports show it.
    pub fn to_json(&self) -> Value {
        json!({
            "step": self.step,
            "ner_loss": self.ner_loss,
            "classify_loss": self.classify_loss,
            "backbone_learning_rate": self.backbone_learning_rate,
            "adapter_learning_rate": self.adapter_learning_rate,
            "ner_gradient_norm": self.ner_gradient_norm,
            "classify_gradient_norm": self.classify_gradient_norm,
            "cosine": self.cosine,
        })
    }

    fn to_line(&self) -> String {
        let optional = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:?}"));
        let mut words = vec![
            self.step.to_string(),
            optional(self.ner_loss),
            optional(self.classify_loss),
            format!("{:?}", self.backbone_learning_rate),
            format!("{:?}", self.adapter_learning_rate),
            optional(self.ner_gradient_norm),
            optional(self.classify_gradient_norm),
        ];
        words.extend(self.cosine.iter().map(|cosine| format!("{cosine:?}")));
        words.join(" ")
    }

    fn from_line(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let step = words.next()?.parse().ok()?;
        let numbers = words.map(|word| match word {
            "-" => Some(None),
            word => word.parse().ok().map(Some),
        });
        let numbers: Vec<Option<f64>> = numbers.collect::<Option<_>>()?;
        let [ner_loss, classify_loss, backbone, adapter, ner_gradient_norm, classify_gradient_norm, cosine @ ..] =
            numbers.as_slice()
        else {
            return None;
        };
        Some(Self {
            step,
            ner_loss: *ner_loss,
            classify_loss: *classify_loss,
            backbone_learning_rate: (*backbone)?,
            adapter_learning_rate: (*adapter)?,
            ner_gradient_norm: *ner_gradient_norm,
            classify_gradient_norm: *classify_gradient_norm,
            cosine: cosine.iter().copied().collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_read_as_it_was_written_in_the_middle_of_a_mean() {
        let mut series = Series::default();
        series.count([0.1 + 0.2, 1.0 / 3.0]);
        assert_eq!(series.take_means(), [0.1 + 0.2, 1.0 / 3.0]);
        series.points.push(Measurement { step: 1, cosine: vec![0.1, -1e-17], ..Measurement::default() });
        series.count([0.7, 1e-300]);
        assert_eq!(Series::from_text(&series.to_text()).unwrap(), series);
    }
}
