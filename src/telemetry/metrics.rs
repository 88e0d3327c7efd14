//! Every metric of the contract, registered once. A request is counted once, by `transport`; the rest by whoever owns the event.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::RwLock;

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::telemetry::labels::{CounterBy, CutReason, ExpiredStage, LabelValue as _, LoadOutcome, Phase, RejectReason};

/// What adapters and labels without series of their own are called.
const OTHER: &str = "other";

/// Twice the same id: Prometheus has a label `job` of its own and puts it over ours, so dashboards read `job_id`.
const JOB_LABELS: [&str; 2] = ["job", "job_id"];

/// Labels with series of their own, of all adapters together: each is a line of `/metrics`, of some hundred bytes.
const LABEL_SERIES_MAX: usize = 20_000;

/// What can be out of order while the server answers.
const PARTS: [&str; 6] = ["adapters", "aliases", "backbones", "datasets", "jobs", "state"];

/// Seconds: 0.5 ms to about 16 s, doubling.
fn duration_buckets() -> Vec<f64> {
    (0..16).map(|i| 0.0005 * f64::from(1u32 << i)).collect()
}

/// The registry and every series of it. Label values of adapters go through [`Metrics::adapter_label`].
pub struct Metrics {
    registry: Registry,
    adapters: RwLock<HashMap<String, ActiveLabels>>,
    adapter_labels_max: usize,
    /// `route, adapter, code`
    pub requests: IntCounterVec,
    /// `route`: requests that end when they are answered. Streams and uploads, which last as long as their caller likes, are out.
    pub request_duration: HistogramVec,
    /// `phase`
    pub phase_duration: HistogramVec,
    pub batch_tokens: Histogram,
    pub batch_sequences: Histogram,
    pub batch_adapters: Histogram,
    /// `adapter`
    pub queue_tokens: IntGaugeVec,
    pub queue_limit_tokens: IntGauge,
    pub queue_fill_ratio: Gauge,
    pub backlog_tokens: IntGauge,
    pub prefix_tokens_saved: IntCounter,
    /// `reason`
    pub rejected: CounterBy<RejectReason>,
    /// `stage`
    pub expired: CounterBy<ExpiredStage>,
    /// `adapter, version`: 1 resident, 0 registered
    pub adapter_resident: IntGaugeVec,
    /// Of all adapters, also of those without series of their own.
    pub adapters_resident: IntGauge,
    pub adapter_bytes: IntGauge,
    /// `adapter, outcome`
    pub adapter_loads: IntCounterVec,
    pub adapter_load_seconds: Histogram,
    pub adapter_evictions: IntCounter,
    /// `adapter`
    pub adapter_last_used_timestamp_seconds: GaugeVec,
    /// `adapter, version, digest, family`
    pub adapter_info: IntGaugeVec,
    /// `adapter, label`
    pub entities: IntCounterVec,
    /// `adapter, label`
    pub predictions: IntCounterVec,
    /// `status`: jobs that the journal has now; it forgets the oldest finished ones.
    pub jobs: IntGaugeVec,
    /// `status`: since the process began
    pub jobs_finished: IntCounterVec,
    /// `job, job_id`
    job_step: IntGaugeVec,
    /// `job, job_id`
    job_loss: GaugeVec,
    /// `job, job_id`
    job_tokens_per_second: GaugeVec,
    /// `name, fingerprint, precision, kernel`
    pub backbone_info: IntGaugeVec,
    /// `name, fingerprint`: 1 for what computes requests without an adapter, 0 for what stays for its adapters
    pub backbone_active: IntGaugeVec,
    /// `name, fingerprint`
    pub backbone_bytes: IntGaugeVec,
    /// 1 while `/readyz` answers 200.
    pub ready: Gauge,
    pub connections: IntGauge,
    /// `reason` = header, keep_alive, body, answer, stream_idle, crowded, bytes, drain
    pub connections_cut: CounterBy<CutReason>,
    pub inflight_bytes: IntGauge,
    pub inflight_limit_bytes: IntGauge,
    /// `part`: 1 while it is out of order and its admin routes answer 503
    pub degraded: IntGaugeVec,
}

/// The labels that an adapter's active version gives.
#[derive(Default)]
struct ActiveLabels {
    /// Of that version; None while it is not known.
    digest: Option<String>,
    /// Those that have series.
    known: HashSet<String>,
}

/// Registers as it builds, so that no metric can be forgotten.
struct Builder(Registry);

impl Builder {
    fn add<C: Collector + Clone + 'static>(&self, collector: prometheus::Result<C>) -> C {
        let collector = collector.expect("metric names and labels are constants");
        self.0.register(Box::new(collector.clone())).expect("each metric is registered once");
        collector
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::with_opts(opts(name, help)))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(opts(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::with_opts(opts(name, help)))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(opts(name, help), labels))
    }

    fn float_gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add(GaugeVec::new(opts(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
        self.add(Histogram::with_opts(histogram_opts(name, help, buckets)))
    }

    fn histograms(&self, name: &str, help: &str, buckets: Vec<f64>, labels: &[&str]) -> HistogramVec {
        self.add(HistogramVec::new(histogram_opts(name, help, buckets), labels))
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("trunkline_{name}"), help)
}

fn histogram_opts(name: &str, help: &str, buckets: Vec<f64>) -> HistogramOpts {
    HistogramOpts::new(format!("trunkline_{name}"), help).buckets(buckets)
}

/// 1, 2, 4 … up to `2^last`.
fn powers_of_two(last: u32) -> Vec<f64> {
    (0..=last).map(|i| f64::from(1u32 << i)).collect()
}

impl Metrics {
    /// The label value of every name that a caller gave.
    pub const CANDIDATE: &str = "candidate";

    /// `adapter_labels_max`: adapters with series of their own; the rest share `other`.
    pub fn new(adapter_labels_max: usize) -> Self {
        let b = Builder(Registry::new());
        b.0.register(Box::new(prometheus::process_collector::ProcessCollector::for_self())).expect("registered once");
        let build = b.gauges("build_info", "The running build; always 1", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let rejected = b.counters("rejected_total", "Requests refused at admission", &["reason"]);
        let expired =
            b.counters("expired_total", "Requests whose deadline passed or whose client left, by where", &["stage"]);
        let phase_duration =
            b.histograms("phase_duration_seconds", "Time of a request in each phase", duration_buckets(), &["phase"]);
        Phase::ALL.iter().for_each(|phase| drop(phase_duration.with_label_values(&[phase.as_str()])));
        let connections_cut = b.counters(
            "connections_cut_total",
            "Connections, and requests on them, ended because their client was too slow or others needed the room",
            &["reason"],
        );
        let degraded = b.gauges("degraded", "1 while a part is out of order: its admin routes answer 503", &["part"]);
        PARTS.iter().for_each(|part| degraded.with_label_values(&[*part]).set(0));
        Self {
            adapters: RwLock::default(),
            adapter_labels_max,
            requests: b.counters("requests_total", "Requests answered, each once", &["route", "adapter", "code"]),
            request_duration: b.histograms(
                "request_duration_seconds",
                "Request to answer, without streams and uploads",
                duration_buckets(),
                &["route"],
            ),
            phase_duration,
            batch_tokens: b.histogram("batch_tokens", "Tokens a forward pass", powers_of_two(16)),
            batch_sequences: b.histogram("batch_sequences", "Sequences a forward pass", powers_of_two(10)),
            batch_adapters: b.histogram("batch_adapters", "Different adapters a forward pass", powers_of_two(8)),
            queue_tokens: b.gauges("queue_tokens", "Tokens in the queue and at work", &["adapter"]),
            queue_limit_tokens: b.gauge("queue_limit_tokens", "Tokens that may be in the queue and at work"),
            queue_fill_ratio: b.add(Gauge::with_opts(opts("queue_fill_ratio", "Queue tokens over their limit"))),
            backlog_tokens: b.gauge("backlog_tokens", "Tokens of accepted requests that are not computed yet"),
            prefix_tokens_saved: b.counter(
                "prefix_tokens_saved_total",
                "Tokens whose lower layers were computed once for several adapters",
            ),
            rejected: CounterBy::new(rejected),
            expired: CounterBy::new(expired),
            adapter_resident: b.gauges("adapter_resident", "1 resident, 0 registered only", &["adapter", "version"]),
            adapters_resident: b.gauge("adapters_resident", "Adapter versions in memory"),
            adapter_bytes: b.gauge("adapter_bytes", "Memory of resident adapters"),
            adapter_loads: b.counters("adapter_loads_total", "Adapter loads", &["adapter", "outcome"]),
            adapter_load_seconds: b.histogram(
                "adapter_load_seconds",
                "Time to make an adapter resident",
                duration_buckets(),
            ),
            adapter_evictions: b.counter("adapter_evictions_total", "Adapters evicted for memory"),
            adapter_last_used_timestamp_seconds: b.float_gauges(
                "adapter_last_used_timestamp_seconds",
                "Unix time of the adapter's last request; 0 before the first",
                &["adapter"],
            ),
            adapter_info: b.gauges(
                "adapter_info",
                "The active version; always 1",
                &["adapter", "version", "digest", "family"],
            ),
            entities: b.counters("entities_total", "Entities found", &["adapter", "label"]),
            predictions: b.counters("predictions_total", "Best labels given", &["adapter", "label"]),
            jobs: b.gauges("jobs", "Jobs by status", &["status"]),
            jobs_finished: b.counters("jobs_finished_total", "Jobs that ended, by how", &["status"]),
            job_step: b.gauges("job_step", "Optimizer steps done", &JOB_LABELS),
            job_loss: b.float_gauges("job_loss", "Training loss", &JOB_LABELS),
            job_tokens_per_second: b.float_gauges("job_tokens_per_second", "Training speed", &JOB_LABELS),
            backbone_info: b.gauges(
                "backbone_info",
                "A resident backbone; always 1",
                &["name", "fingerprint", "precision", "kernel"],
            ),
            backbone_active: b.gauges(
                "backbone_active",
                "1 active, 0 resident for the adapters made for it",
                &["name", "fingerprint"],
            ),
            backbone_bytes: b.gauges("backbone_bytes", "Memory of a resident backbone", &["name", "fingerprint"]),
            ready: b.add(Gauge::with_opts(opts("ready", "1 while the server can answer"))),
            connections: b.gauge("connections", "Connections open"),
            connections_cut: CounterBy::new(connections_cut),
            inflight_bytes: b.gauge("inflight_bytes", "Bytes of bodies, messages, answers and uploads in memory"),
            inflight_limit_bytes: b
                .gauge("inflight_limit_bytes", "Bytes of bodies, messages and answers that all connections share"),
            degraded,
            registry: b.0,
        }
    }

    /// The label value for an adapter: its name while there is room, then `other`. Bounded by registered adapters, never by callers' text.
    pub fn adapter_label(&self, name: &str) -> String {
        let known = self.adapters.read().expect("no holder panics").contains_key(name);
        if known { name.to_owned() } else { OTHER.to_owned() }
    }

    /// The label value for what an adapter answered: adapters without series of their own share one here, too, or thousands of
    /// them would have a series for each of their labels. So do labels that are not the active version's, once those are known.
    pub fn result_label<'a>(&self, adapter_label: &str, label: &'a str) -> &'a str {
        let adapters = self.adapters.read().expect("no holder panics");
        match adapters.get(adapter_label) {
            Some(_) if label == Self::CANDIDATE => label,
            Some(active) if active.digest.is_none() || active.known.contains(label) => label,
            _ => OTHER,
        }
    }

    /// The labels that an adapter's active version, of this digest, gives: series of others go. Of more than there is room for the rest
    /// share `other`.
    pub fn set_labels(&self, name: &str, digest: &str, labels: impl FnOnce() -> BTreeSet<String>) {
        let mut adapters = self.adapters.write().expect("no holder panics");
        if adapters.get(name).is_none_or(|active| active.digest.as_deref() == Some(digest)) {
            return;
        }
        let others = adapters.iter().filter(|(other, _)| *other != name).map(|(_, active)| active.known.len());
        let room = LABEL_SERIES_MAX.saturating_sub(others.sum());
        let known: HashSet<String> = labels().into_iter().take(room).collect();
        let is_gone = |labels: &[&str]| {
            labels.last().is_some_and(|label| ![OTHER, Self::CANDIDATE].contains(label) && !known.contains(*label))
        };
        remove_matching(&self.entities, name, is_gone, |labels| self.entities.remove_label_values(labels));
        remove_matching(&self.predictions, name, is_gone, |labels| self.predictions.remove_label_values(labels));
        adapters.insert(name.to_owned(), ActiveLabels { digest: Some(digest.to_owned()), known });
    }

    /// Gives a registered adapter its own series, if there is room.
    pub fn add_adapter(&self, name: &str) {
        let mut adapters = self.adapters.write().expect("no holder panics");
        if adapters.len() < self.adapter_labels_max {
            adapters.entry(name.to_owned()).or_default();
        }
        let label = if adapters.contains_key(name) { name } else { OTHER };
        LoadOutcome::ALL
            .iter()
            .for_each(|outcome| drop(self.adapter_loads.with_label_values(&[label, outcome.as_str()])));
    }

    /// Takes a retired adapter's series away.
    pub fn remove_adapter(&self, name: &str) {
        if self.adapters.write().expect("no holder panics").remove(name).is_none() {
            return;
        }
        let one = |vec: &IntGaugeVec| drop(vec.remove_label_values(&[name]));
        one(&self.queue_tokens);
        drop(self.adapter_last_used_timestamp_seconds.remove_label_values(&[name]));
        let all = |_labels: &[&str]| true;
        remove_matching(&self.requests, name, all, |labels| self.requests.remove_label_values(labels));
        remove_matching(&self.adapter_resident, name, all, |labels| self.adapter_resident.remove_label_values(labels));
        remove_matching(&self.adapter_loads, name, all, |labels| self.adapter_loads.remove_label_values(labels));
        remove_matching(&self.adapter_info, name, all, |labels| self.adapter_info.remove_label_values(labels));
        remove_matching(&self.entities, name, all, |labels| self.entities.remove_label_values(labels));
        remove_matching(&self.predictions, name, all, |labels| self.predictions.remove_label_values(labels));
    }

    /// Where a running job is: optimizer steps done, training loss, tokens a second.
    pub fn show_job(&self, job: &str, step: u64, loss: f64, tokens_per_second: f64) {
        self.job_step.with_label_values(&[job, job]).set(step as i64);
        self.job_loss.with_label_values(&[job, job]).set(loss);
        self.job_tokens_per_second.with_label_values(&[job, job]).set(tokens_per_second);
    }

    /// Takes a finished job's series away.
    pub fn remove_job(&self, job: &str) {
        drop(self.job_step.remove_label_values(&[job, job]));
        drop(self.job_loss.remove_label_values(&[job, job]));
        drop(self.job_tokens_per_second.remove_label_values(&[job, job]));
    }

    /// Prometheus's text format.
    pub fn render(&self) -> String {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out).expect("writing to memory cannot fail");
        String::from_utf8(out).expect("the text format is UTF-8")
    }
}

/// Removes every series of `vec` whose `adapter` label is `name` and whose labels `is_meant`, in the order of the vector's own label names.
fn remove_matching(
    vec: &impl Collector,
    name: &str,
    is_meant: impl Fn(&[&str]) -> bool,
    remove: impl Fn(&[&str]) -> prometheus::Result<()>,
) {
    let names = vec.desc()[0].variable_labels.clone();
    for family in vec.collect() {
        for metric in family.get_metric() {
            let value = |wanted: &String| {
                metric
                    .get_label()
                    .iter()
                    .find(|pair| pair.name() == wanted)
                    .map_or_else(String::new, |pair| pair.value().to_owned())
            };
            let values: Vec<String> = names.iter().map(value).collect();
            let of_adapter = names.iter().position(|n| n == "adapter").is_some_and(|at| values[at] == name);
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            if of_adapter && is_meant(&values) {
                drop(remove(&values));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::labels::LabelValue;

    #[test]
    fn series_of_an_adapter_exist_while_it_is_registered_and_the_rest_share_other() {
        let metrics = Metrics::new(1);
        metrics.add_adapter("a");
        metrics.add_adapter("b");
        assert_eq!(metrics.adapter_label("a"), "a");
        assert_eq!(metrics.adapter_label("b"), "other");
        assert_eq!(metrics.result_label(&metrics.adapter_label("a"), "PER"), "PER");
        assert_eq!(metrics.result_label(&metrics.adapter_label("b"), "PER"), "other");
        metrics.requests.with_label_values(&["/v1/ner", "a", "ok"]).inc();
        metrics.adapter_resident.with_label_values(&["a", "3"]).set(1);
        assert!(metrics.render().contains("adapter=\"a\""));
        metrics.remove_adapter("a");
        assert!(!metrics.render().contains("adapter=\"a\""), "{}", metrics.render());
    }

    #[test]
    fn every_value_of_a_closed_list_has_its_series_before_the_first_event() {
        fn check<L: LabelValue>(rendered: &str, metric: &str, label: &str) {
            for value in L::ALL {
                let series = format!("trunkline_{metric}{{{label}=\"{}\"}} 0", value.as_str());
                assert!(rendered.contains(&series), "{series} is not in\n{rendered}");
            }
        }
        let rendered = Metrics::new(1).render();
        check::<RejectReason>(&rendered, "rejected_total", "reason");
        check::<ExpiredStage>(&rendered, "expired_total", "stage");
        check::<CutReason>(&rendered, "connections_cut_total", "reason");
        check::<Phase>(&rendered, "phase_duration_seconds_count", "phase");
    }

    #[test]
    fn loads_of_a_registered_adapter_are_shown_before_the_first_one() {
        let metrics = Metrics::new(1);
        metrics.add_adapter("a");
        metrics.add_adapter("b");
        let rendered = metrics.render();
        for (adapter, outcome) in [("a", "ok"), ("a", "error"), ("other", "ok"), ("other", "error")] {
            let series = format!("trunkline_adapter_loads_total{{adapter=\"{adapter}\",outcome=\"{outcome}\"}} 0");
            assert!(rendered.contains(&series), "{series} is not in\n{rendered}");
        }
    }

    #[test]
    fn series_of_a_job_carry_its_id_twice_and_go_with_it() {
        let metrics = Metrics::new(1);
        metrics.show_job("job_1", 7, 0.5, 900.0);
        for series in ["job_step{job=\"job_1\",job_id=\"job_1\"} 7", "job_loss{job=\"job_1\",job_id=\"job_1\"} 0.5"] {
            assert!(metrics.render().contains(series), "{series}");
        }
        metrics.remove_job("job_1");
        assert!(!metrics.render().contains("job_1"));
    }

    #[test]
    fn series_of_labels_are_those_of_the_active_version() {
        let metrics = Metrics::new(2);
        metrics.add_adapter("a");
        let count = |label: &str| {
            let label = metrics.result_label("a", label);
            metrics.entities.with_label_values(&["a", label]).inc();
        };
        let shown = |label: &str| metrics.render().contains(&format!("adapter=\"a\",label=\"{label}\""));
        let set = |digest: &str, labels: &[&str]| {
            metrics.set_labels("a", digest, || labels.iter().map(|&label| label.to_owned()).collect());
        };
        set("one", &["PER", "LOC"]);
        ["PER", "LOC", "another version's"].into_iter().for_each(count);
        assert_eq!(["PER", "LOC", "another version's", "other"].map(shown), [true, true, false, true]);
        set("one", &[]);
        assert!(shown("LOC"), "the same version has the same labels");
        set("two", &["PER", "ORG"]);
        ["LOC", "ORG"].into_iter().for_each(count);
        assert_eq!(["PER", "LOC", "ORG", "other"].map(shown), [true, false, true, true]);
        metrics.remove_adapter("a");
        assert_eq!(["PER", "ORG", "other"].map(shown), [false; 3]);
    }

    #[test]
    fn labels_past_the_bound_share_one_series() {
        let metrics = Metrics::new(9);
        let many = |prefix: &str| (0..LABEL_SERIES_MAX - 1).map(|at| format!("{prefix}{at:05}")).collect();
        for name in ["a", "b"] {
            metrics.add_adapter(name);
            metrics.set_labels(name, "one", || many(name));
        }
        assert_eq!(metrics.result_label("a", "a19998"), "a19998");
        assert_eq!(["b00000", "b00001"].map(|label| metrics.result_label("b", label)), ["b00000", "other"]);
        metrics.remove_adapter("a");
        metrics.set_labels("b", "two", || many("b"));
        assert_eq!(metrics.result_label("b", "b00001"), "b00001");
    }

    #[test]
    fn every_part_that_can_be_out_of_order_has_a_series_from_the_start() {
        let text = Metrics::new(1).render();
        for part in PARTS {
            assert!(text.contains(&format!("trunkline_degraded{{part=\"{part}\"}} 0")), "{part}: {text}");
        }
    }
}
