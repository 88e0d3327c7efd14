//! The report for people: two tables, one row a load.

use super::latency::Summary;
use super::report::Report;
use super::tally::Stage;

pub(super) fn text(report: &Report) -> String {
    let mut text = head(report);
    let labels: Vec<String> = report.stages.iter().map(|stage| stage.load.to_string()).collect();
    let counts = ["offered", "200", "429", "504", "failed", "offered/s", "200/s", "goodput/s", "tokens/s"];
    text += &table(&labels, &counts, report.stages.iter().map(|stage| count_cells(stage).to_vec()));
    text += "\nlatency in ms, from due to answered (200s)\n";
    let times = ["mean", "p50", "p90", "p95", "p99", "p99.9", "max", "queue", "tokenize", "compute", "send p99"];
    text += &table(&labels, &times, report.stages.iter().map(|stage| time_cells(stage).to_vec()));
    report.stages.iter().for_each(|stage| notes(&mut text, stage));
    text
}

fn head(report: &Report) -> String {
    let (server, workload, machine) = (&report.server, &report.workload, &report.client.machine);
    let version = server.about.version.as_deref().unwrap_or("of unknown version");
    let runs = server.about.backbone.as_ref().map_or_else(
        || "a backbone that it does not name".to_owned(),
        |backbone| format!("{}, {}, {}", backbone.name, backbone.precision, backbone.kernel),
    );
    let place = if server.is_local { "the same machine" } else { "another machine" };
    let tokens = report.stages.last().map_or(0.0, |stage| stage.tokens_per_sequence);
    [
        format!("server   {} (trunkline {version}): {runs}\n", server.url),
        format!("client   {}, {} cores ({}); ", machine.cpu, machine.cores, machine.features.join(" ")),
        format!("the server is on {place}\n"),
        format!("requests {}, adapters: {} ", workload.family, workload.adapters.len()),
        format!("(Zipf {}), inputs: {} ", workload.zipf, workload.inputs_per_request),
        format!("of {} texts ({}; {tokens:.1} tokens in the mean)\n\n", workload.text_count, workload.texts),
    ]
    .concat()
}

fn count_cells(stage: &Stage) -> [String; 9] {
    let tenths = |x: f64| format!("{x:.1}");
    [
        stage.offered.to_string(),
        stage.accepted.to_string(),
        stage.refused.to_string(),
        stage.expired.to_string(),
        stage.failed.to_string(),
        tenths(stage.offered_per_second),
        tenths(stage.answers_per_second),
        tenths(stage.goodput_per_second),
        format!("{:.0}", stage.tokens_per_second),
    ]
}

fn time_cells(stage: &Stage) -> [String; 11] {
    let ms = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), |x| format!("{x:.2}"));
    let latency = |of: fn(&Summary) -> f64| ms(stage.latency_ms.as_ref().map(of));
    [
        latency(|s| s.mean),
        latency(|s| s.p50),
        latency(|s| s.p90),
        latency(|s| s.p95),
        latency(|s| s.p99),
        latency(|s| s.p99_9),
        latency(|s| s.max),
        ms(stage.server_ms.map(|server| server.queue)),
        ms(stage.server_ms.map(|server| server.tokenize)),
        ms(stage.server_ms.map(|server| server.compute)),
        ms(stage.send_lag_ms.map(|lag| lag.p99)),
    ]
}

/// What does not fit a column: refusals, failures by kind, late answers, warnings.
fn notes(text: &mut String, stage: &Stage) {
    let mut notes = Vec::new();
    if let Some(refusals) = &stage.refusal_latency_ms {
        notes.push(format!("429s took {:.2} ms (p50), {:.2} ms (p99)", refusals.p50, refusals.p99));
    }
    if !stage.failures.is_empty() {
        let kinds: Vec<String> = stage.failures.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        notes.push(format!("failed: {}", kinds.join(", ")));
    }
    if stage.late > 0 {
        notes.push(format!("{} answers came after the deadline", stage.late));
    }
    notes.extend(stage.warnings.iter().map(|warning| format!("warning: {warning}")));
    for note in notes {
        *text += &format!("{}: {note}\n", stage.load);
    }
}

/// Columns as wide as their widest cell; the first to the left, the rest to the right.
fn table(labels: &[String], columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let header = columns.iter().map(|&column| column.to_owned()).collect();
    let cells: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| cells.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let first = labels.iter().map(String::len).max().unwrap_or(0);
    let labels = std::iter::once("").chain(labels.iter().map(String::as_str));
    let line = |(label, row): (&str, &Vec<String>)| {
        let cells: String = row.iter().zip(&widths).map(|(cell, &width)| format!("  {cell:>width$}")).collect();
        format!("{label:first$}{cells}\n")
    };
    labels.zip(&cells).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let labels = ["a".to_owned(), "longer".to_owned()];
        let rows = [vec!["1".to_owned(), "2.5".to_owned()], vec!["100".to_owned(), "-".to_owned()]];
        let wanted = "          n   ms\na         1  2.5\nlonger  100    -\n";
        assert_eq!(table(&labels, &["n", "ms"], rows.into_iter()), wanted);
    }
}
