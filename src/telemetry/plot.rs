//! Lines over linear axes as SVG: what reports show of a run. Pure.

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 540.0;
/// The plot's frame, inside the labels of its axes and the legend.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 760.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 480.0;
/// Lines across the frame, about.
const TICKS: f64 = 6.0;
/// Okabe and Ito's, which colour-blind readers can tell apart; more lines than that start again.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// One line of a plot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// In the legend.
    pub name: String,
    /// (x, y); points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// What a plot shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plot {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    pub lines: Vec<Line>,
}

impl Plot {
    /// The same plot gives the same bytes.
    pub fn to_svg(&self) -> String {
        let axes = Axes::around(&self.lines);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
        );
        svg += &label(LEFT, TOP - 22.0, "start", &self.title);
        svg += &label((LEFT + RIGHT) / 2.0, BOTTOM + 42.0, "middle", &self.x_label);
        svg += &label(LEFT, TOP - 6.0, "end", &self.y_label);
        svg += &axes.grid();
        for (at, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            svg += &axes.polyline(line, colour);
            svg += &legend(at, &line.name, colour);
        }
        svg + "</svg>\n"
    }
}

/// Data to pixels.
struct Axes {
    x: (f64, f64),
    y: (f64, f64),
}

impl Axes {
    /// A frame that holds every point and y = 0.
    fn around(lines: &[Line]) -> Self {
        let points = || lines.iter().flat_map(|line| finite(&line.points));
        let around = |numbers: &mut dyn Iterator<Item = f64>, least: f64| {
            let (low, high) = numbers.fold((least, least), |(low, high), x| (low.min(x), high.max(x)));
            (low, if high > low { high } else { low + 1.0 })
        };
        let first = points().map(|(x, _)| x).next().unwrap_or(0.0);
        Self { x: around(&mut points().map(|(x, _)| x), first), y: around(&mut points().map(|(_, y)| y), 0.0) }
    }

    fn x(&self, x: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (x - self.x.0) / (self.x.1 - self.x.0)
    }

    fn y(&self, y: f64) -> f64 {
        BOTTOM - (BOTTOM - TOP) * (y - self.y.0) / (self.y.1 - self.y.0)
    }

    fn grid(&self) -> String {
        let mut grid = String::new();
        for tick in ticks(self.x) {
            let x = self.x(tick);
            grid += &rule((x, TOP), (x, BOTTOM), "#eee");
            grid += &label(x, BOTTOM + 20.0, "middle", &number(tick));
        }
        for tick in ticks(self.y) {
            let y = self.y(tick);
            grid += &rule((LEFT, y), (RIGHT, y), if tick == 0.0 { "#888" } else { "#ddd" });
            grid += &label(LEFT - 8.0, y + 4.0, "end", &number(tick));
        }
        grid
    }

    fn polyline(&self, line: &Line, colour: &str) -> String {
        let points: Vec<String> =
            finite(&line.points).map(|(x, y)| format!("{:.1},{:.1}", self.x(x), self.y(y))).collect();
        format!("<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>\n", points.join(" "))
    }
}

fn finite(points: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> + '_ {
    points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite())
}

/// Multiples of 1, 2 or 5 times a power of ten within `range`.
fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let rough = (high - low) / TICKS;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|at| at as f64 * step).collect()
}

/// In at most four decimal places.
fn number(x: f64) -> String {
    let text = format!("{x:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
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
    use super::*;

    #[test]
    fn every_finite_point_is_inside_the_frame() {
        let line = |name: &str, points: &[(f64, f64)]| Line { name: name.to_owned(), points: points.to_vec() };
        let plot = Plot {
            title: "a < b".to_owned(),
            lines: vec![
                line("layer 0", &[(0.0, -0.4), (20.0, 0.3), (40.0, f64::NAN)]),
                line("layer 1", &[(40.0, 0.9)]),
                line("none", &[]),
            ],
            ..Plot::default()
        };
        let svg = plot.to_svg();
        assert!(svg.contains("a &lt; b") && svg.contains(">layer 1<"));
        let lines: Vec<&str> = svg.lines().filter(|line| line.starts_with("<polyline")).collect();
        let counts: Vec<usize> = lines.iter().map(|line| line.matches(',').count()).collect();
        assert_eq!(counts, [2, 1, 0]);
        for point in lines.iter().flat_map(|line| line.split("points=\"").nth(1)).flat_map(|p| p.split(['"', ' '])) {
            let Some((x, y)) = point.split_once(',') else { continue };
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((LEFT..=RIGHT).contains(&x) && (TOP..=BOTTOM).contains(&y), "{x},{y}");
        }
    }

    #[test]
    fn ticks_are_round_numbers() {
        let check = |range, expected: &[&str]| {
            assert_eq!(ticks(range).into_iter().map(number).collect::<Vec<_>>(), expected, "{range:?}");
        };
        check((0.0, 2000.0), &["0", "500", "1000", "1500", "2000"]);
        check((-0.35, 0.62), &["-0.2", "0", "0.2", "0.4", "0.6"]);
        check((0.0, 1.0), &["0", "0.2", "0.4", "0.6", "0.8", "1"]);
    }
}
