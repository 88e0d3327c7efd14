//! Latency percentiles as SVG: one line a load. Both axes are logarithmic: tails differ by factors, and each nine is as far again.

use super::tally::Stage;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 540.0;
/// The plot's frame, inside the labels of its axes and the legend.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 700.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 480.0;
/// Okabe and Ito's, which colour-blind readers can tell apart; more loads than that start again.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// Data to pixels.
struct Axes {
    /// Tenfolds of 1 / (1 - quantile) at the right end.
    nines: f64,
    /// Logarithms of milliseconds at the bottom and the top: whole numbers.
    low: f64,
    high: f64,
}

impl Axes {
    /// A frame that holds every point; from 1 ms to 10 ms if there is none.
    fn around(stages: &[Stage]) -> Self {
        let points = || stages.iter().flat_map(|stage| stage.curve.iter());
        let logs = || points().map(|&(_, ms)| log_ms(ms));
        let nines = points().map(|&(quantile, _)| nines(quantile)).fold(1.0, f64::max);
        let low = logs().fold(f64::INFINITY, f64::min).floor();
        let low = if low.is_finite() { low } else { 0.0 };
        let high = logs().fold(low + 1.0, f64::max).ceil();
        Self { nines, low, high }
    }

    fn x(&self, quantile: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * nines(quantile) / self.nines
    }

    fn y(&self, ms: f64) -> f64 {
        BOTTOM - (BOTTOM - TOP) * (log_ms(ms) - self.low) / (self.high - self.low)
    }
}

fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

/// Latencies are kept in microseconds; one that is 0 is drawn as one.
fn log_ms(ms: f64) -> f64 {
    ms.max(0.001).log10()
}

/// `title` above, one line for each of `stages`.
pub(super) fn svg(title: &str, stages: &[Stage]) -> String {
    let axes = Axes::around(stages);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    svg += &label(LEFT, TOP - 22.0, "start", title);
    svg += &grid(&axes);
    for (at, stage) in stages.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        svg += &line(&axes, stage, colour);
        svg += &legend(at, &stage.load.to_string(), colour);
    }
    svg + "</svg>\n"
}

fn grid(axes: &Axes) -> String {
    let mut grid = String::new();
    for (quantile, name) in
        [(0.0, "min"), (0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (0.9999, "p99.99")]
    {
        if nines(quantile) <= axes.nines + 1e-9 {
            let x = axes.x(quantile);
            grid += &rule((x, TOP), (x, BOTTOM), "#ccc");
            grid += &label(x, BOTTOM + 20.0, "middle", name);
        }
    }
    for decade in axes.low as i32..=axes.high as i32 {
        let y = axes.y(10f64.powi(decade));
        grid += &rule((LEFT, y), (RIGHT, y), "#ccc");
        grid += &label(LEFT - 8.0, y + 4.0, "end", &format!("{} ms", 10f64.powi(decade)));
        for step in 2..10 {
            let y = axes.y(f64::from(step) * 10f64.powi(decade));
            if y >= TOP {
                grid += &rule((LEFT, y), (RIGHT, y), "#eee");
            }
        }
    }
    grid
}

fn line(axes: &Axes, stage: &Stage, colour: &str) -> String {
    let point = |&(quantile, ms): &(f64, f64)| format!("{:.1},{:.1}", axes.x(quantile), axes.y(ms));
    let points: Vec<String> = stage.curve.iter().map(point).collect();
    format!("<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>\n", points.join(" "))
}

fn legend(at: usize, text: &str, colour: &str) -> String {
    let y = TOP + 12.0 + 22.0 * at as f64;
    let swatch =
        format!("<rect x=\"{}\" y=\"{}\" width=\"18\" height=\"4\" fill=\"{colour}\"/>\n", RIGHT + 16.0, y - 6.0);
    swatch + &label(RIGHT + 42.0, y, "start", text)
}

fn rule((x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str) -> String {
    format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>\n")
}

fn label(x: f64, y: f64, anchor: &str, text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{escaped}</text>\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::client::{Answer, Exchange, Outcome};
    use super::super::load::Load;
    use super::super::tally::Tally;
    use super::*;

    /// `count` requests that took 1, 2, … milliseconds.
    fn stage(count: u64, rate: f64) -> Stage {
        let mut tally = Tally::new(Duration::ZERO..Duration::from_secs(1), None);
        for ms in 1..=count {
            let (due, done) = (Duration::ZERO, Duration::from_millis(ms));
            tally.record(&Exchange { due, sent: due, done, outcome: Outcome::Accepted(Answer::default()) });
        }
        tally.finish(Load::Open { rate, share: None }, 1, 2)
    }

    /// Elements that close in order, quoted attributes, and no bare `&`: enough of XML for what is written here.
    fn check_well_formed(xml: &str) {
        let mut open = Vec::new();
        for part in xml.split('<').skip(1) {
            let (tag, text) = part.split_once('>').expect("every tag ends");
            assert!(!text.contains('>') && tag.matches('"').count() % 2 == 0, "{part}");
            assert!(text.split('&').skip(1).all(|rest| ["amp;", "lt;", "gt;"].iter().any(|e| rest.starts_with(e))));
            let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
            match tag.strip_prefix('/') {
                Some(closed) => assert_eq!(open.pop(), Some(closed)),
                None if tag.ends_with('/') => (),
                None => open.push(name),
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn each_load_is_one_line_inside_the_frame() {
        let stages = [stage(1000, 10.0), stage(70, 20.0), stage(0, 30.0)];
        let svg = svg("a < b & \"c\"", &stages);
        check_well_formed(&svg);
        assert!(svg.contains("a &lt; b &amp; \"c\""), "{svg}");
        let lines: Vec<&str> = svg.lines().filter(|line| line.starts_with("<polyline")).collect();
        assert_eq!(lines.len(), stages.len());
        for (line, stage) in lines.iter().zip(&stages) {
            let points = line.split("points=\"").nth(1).unwrap().trim_end_matches("\"/>");
            let points: Vec<&str> = points.split(' ').filter(|point| !point.is_empty()).collect();
            assert_eq!(points.len(), stage.curve.len());
            for (x, y) in points.iter().map(|point| point.split_once(',').unwrap()) {
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((LEFT..=RIGHT).contains(&x) && (TOP..=BOTTOM).contains(&y), "{x},{y}");
            }
        }
        assert!(["10.0/s", "20.0/s", "30.0/s"].iter().all(|legend| svg.contains(legend)));
    }

    #[test]
    fn a_tenfold_is_as_far_everywhere() {
        let axes = Axes { nines: 3.0, low: 0.0, high: 3.0 };
        assert!((axes.x(0.9) - axes.x(0.0) - (axes.x(0.99) - axes.x(0.9))).abs() < 1e-6);
        assert!((axes.y(1.0) - axes.y(10.0) - (axes.y(10.0) - axes.y(100.0))).abs() < 1e-6);
        assert_eq!((axes.x(0.0), axes.y(1.0), axes.y(1000.0)), (LEFT, BOTTOM, TOP));
    }
}
