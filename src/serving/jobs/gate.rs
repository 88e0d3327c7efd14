//! The gate: whether a trained adapter is good enough to be published. Pure; who measures is the runner.

use serde_json::{Value, json};

use crate::domain::Gate;

/// What the gate saw.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    gate: Gate,
    /// The metric on the validation split.
    value: f64,
    /// The same of the version that answers now; None where there is none or it was not asked for.
    active: Option<(u32, f64)>,
}

impl Verdict {
    pub(super) fn new(gate: Gate, value: f64, active: Option<(u32, f64)>) -> Self {
        Self { gate, value, active }
    }

    /// The figures that fall short; none: the gate is met. A figure that is not a number falls short of everything.
    pub(super) fn shortfall(&self) -> Option<String> {
        let metric = self.gate.metric.as_str();
        let reaches = |floor: f64| self.value >= floor;
        let minimum = (!reaches(self.gate.min)).then(|| format!("the minimum of {:.4}", self.gate.min));
        let worse = self
            .active
            .filter(|&(_, active)| self.gate.not_worse_than_active && !reaches(active))
            .map(|(version, active)| format!("the active version {version}'s {active:.4}"));
        let short: Vec<String> = minimum.into_iter().chain(worse).collect();
        (!short.is_empty()).then(|| format!("validation {metric} {:.4} is below {}", self.value, short.join(" and ")))
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "metric": self.gate.metric.as_str(),
            "split": "validation",
            "value": self.value,
            "min": self.gate.min,
            "not_worse_than_active": self.gate.not_worse_than_active,
            "active": self.active.map(|(version, value)| json!({ "version": version, "value": value })),
            "met": self.shortfall().is_none(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::GateMetric;

    #[test]
    fn the_gate_is_met_at_its_minimum_and_at_the_active_versions_figure() {
        let check = |value: f64, min: f64, active: Option<f64>, shortfall: Option<&str>| {
            let gate = Gate { metric: GateMetric::MacroF1, min, not_worse_than_active: true };
            let verdict = Verdict::new(gate, value, active.map(|figure| (3, figure)));
            assert_eq!(verdict.shortfall().as_deref(), shortfall);
            assert_eq!(verdict.to_json()["met"], shortfall.is_none());
        };
        check(0.8, 0.8, None, None);
        check(0.8, 0.5, Some(0.8), None);
        check(0.79, 0.8, None, Some("validation macro_f1 0.7900 is below the minimum of 0.8000"));
        check(0.85, 0.8, Some(0.9), Some("validation macro_f1 0.8500 is below the active version 3's 0.9000"));
        check(
            0.1,
            0.8,
            Some(0.9),
            Some("validation macro_f1 0.1000 is below the minimum of 0.8000 and the active version 3's 0.9000"),
        );
        check(f64::NAN, 0.0, None, Some("validation macro_f1 NaN is below the minimum of 0.0000"));
    }

    #[test]
    fn a_worse_version_passes_where_the_gate_does_not_compare() {
        let gate = Gate { metric: GateMetric::F1, min: 0.5, not_worse_than_active: false };
        assert_eq!(Verdict::new(gate, 0.6, Some((1, 0.9))).shortfall(), None);
    }
}
