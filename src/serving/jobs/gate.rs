//! The gate: whether a trained adapter is good enough to be published. Pure; who measures is the runner.

use serde_json::{Value, json};

use crate::domain::Gate;

/// What the gate saw.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    gate: Gate,
    /// Which rows `measured` is of: `test` or `validation`.
    split: &'static str,
    measured: Measured,
    /// The metric of the version that answers now; None where there is none or it was not asked for.
    active: Option<(u32, f64)>,
}

/// A figure, and what it is worth.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measured {
    pub(super) value: f64,
    pub(super) rows: usize,
    pub(super) method: &'static str,
    /// Where the true figure lies, as surely as the gate asks for: low and high.
    pub(super) interval: Option<[f64; 2]>,
}

impl Verdict {
    pub(super) fn new(gate: Gate, split: &'static str, measured: Measured, active: Option<(u32, f64)>) -> Self {
        Self { gate, split, measured, active }
    }

    /// What is compared: the figure, or the lower end of its interval where the gate wants to be sure.
    fn compared(&self) -> f64 {
        let low = self.measured.interval.map_or(f64::NAN, |[low, _]| low);
        if self.gate.confidence.is_some() { low } else { self.measured.value }
    }

    /// The figures that fall short; none: the gate is met. A figure that is not a number falls short of everything.
    pub(super) fn shortfall(&self) -> Option<String> {
        let (metric, compared) = (self.gate.metric.as_str(), self.compared());
        let minimum = (!reaches(compared, self.gate.min)).then(|| format!("the minimum of {:.4}", self.gate.min));
        // the other version's figure is on the same rows: one is as lucky as the other
        let worse = self
            .active
            .filter(|&(_, active)| self.gate.not_worse_than_active && !reaches(self.measured.value, active))
            .map(|(version, active)| format!("the active version {version}'s {active:.4}"));
        let short: Vec<String> = minimum.into_iter().chain(worse).collect();
        let sure = self.gate.confidence.map_or_else(String::new, |confidence| {
            format!(", at least {} ({:.0} % sure),", shown(compared), 100.0 * confidence)
        });
        (!short.is_empty()).then(|| {
            let (split, rows, value) = (self.split, self.measured.rows, shown(self.measured.value));
            format!("{split} {metric} {value}{sure} on {rows} rows is below {}", short.join(" and "))
        })
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "metric": self.gate.metric.as_str(),
            "split": self.split,
            "on": self.split,
            "value": self.measured.value,
            "rows": self.measured.rows,
            "method": self.measured.method,
            "interval": self.measured.interval,
            "confidence": self.gate.confidence,
            "min": self.gate.min,
            "not_worse_than_active": self.gate.not_worse_than_active,
            "active": self.active.map(|(version, value)| json!({ "version": version, "value": value })),
            "met": self.shortfall().is_none(),
        })
    }
}

fn reaches(figure: f64, floor: f64) -> bool {
    figure >= floor
}

fn shown(figure: f64) -> String {
    if figure.is_nan() { "unknown".to_owned() } else { format!("{figure:.4}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{GateMetric, GateSplit};

    fn gate(min: f64, not_worse_than_active: bool, confidence: Option<f64>) -> Gate {
        Gate { metric: GateMetric::MacroF1, min, not_worse_than_active, confidence, on: GateSplit::Auto }
    }

    fn measured(value: f64) -> Measured {
        Measured { value, rows: 40, method: "split", interval: Some([value - 0.1, value + 0.1]) }
    }

    #[test]
    fn the_gate_is_met_at_its_minimum_and_at_the_active_versions_figure() {
        let check = |value: f64, min: f64, active: Option<f64>, shortfall: Option<&str>| {
            let active = active.map(|figure| (3, figure));
            let verdict = Verdict::new(gate(min, true, None), "validation", measured(value), active);
            assert_eq!(verdict.shortfall().as_deref(), shortfall);
            assert_eq!(verdict.to_json()["met"], shortfall.is_none());
        };
        check(0.8, 0.8, None, None);
        check(0.8, 0.5, Some(0.8), None);
        check(0.79, 0.8, None, Some("validation macro_f1 0.7900 on 40 rows is below the minimum of 0.8000"));
        check(
            0.85,
            0.8,
            Some(0.9),
            Some("validation macro_f1 0.8500 on 40 rows is below the active version 3's 0.9000"),
        );
        check(
            0.1,
            0.8,
            Some(0.9),
            Some(
                "validation macro_f1 0.1000 on 40 rows is below the minimum of 0.8000 and the active version 3's 0.9000",
            ),
        );
        check(f64::NAN, 0.0, None, Some("validation macro_f1 unknown on 40 rows is below the minimum of 0.0000"));
    }

    #[test]
    fn a_gate_that_wants_to_be_sure_compares_the_lower_end() {
        let verdict = |min| Verdict::new(gate(min, false, Some(0.9)), "test", measured(0.8), None);
        assert_eq!(verdict(0.7).shortfall(), None);
        assert_eq!(
            verdict(0.75).shortfall().as_deref(),
            Some("test macro_f1 0.8000, at least 0.7000 (90 % sure), on 40 rows is below the minimum of 0.7500")
        );
        let json = verdict(0.7).to_json();
        assert_eq!((&json["on"], &json["rows"], &json["confidence"]), (&json!("test"), &json!(40), &json!(0.9)));
        let unknown = Measured { interval: None, ..measured(0.8) };
        assert!(Verdict::new(gate(0.0, false, Some(0.9)), "test", unknown, None).shortfall().is_some());
    }

    #[test]
    fn a_worse_version_passes_where_the_gate_does_not_compare() {
        let verdict = Verdict::new(gate(0.5, false, None), "validation", measured(0.6), Some((1, 0.9)));
        assert_eq!(verdict.shortfall(), None);
    }
}
