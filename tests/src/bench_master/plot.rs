//! How the figures grow with the number of files, as an SVG: each against what it is with the fewest files, on axes of
//! powers. What is flat costs the same however many files there are.

use std::fmt::Write;

use super::report::{CASES, Figures, shown};

const LEFT: f64 = 60.0;
const TOP: f64 = 40.0;
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 480.0;
/// Powers of two up and down.
const RANGE: f64 = 4.0;
const LEGEND_ROW: f64 = 18.0;

/// Draws them.
pub fn svg(all: &[Figures]) -> String {
    let mut all: Vec<&Figures> = all.iter().filter(|figures| figures.files > 0).collect();
    all.sort_unstable_by_key(|figures| figures.files);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-weight=\"bold\">The master: each figure against what it is with the fewest files</text>\n",
        LEFT + WIDTH + 420.0,
        TOP + HEIGHT + 40.0
    );
    for power in -(RANGE as i32)..=RANGE as i32 {
        let (y, colour) = (height(f64::from(power)), if power == 0 { "black" } else { "#ddd" });
        let label = if power < 0 { format!("1/{}", 1 << -power) } else { (1 << power).to_string() };
        // A String takes all that is written to it.
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{colour}\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>",
            LEFT + WIDTH,
            LEFT - 8.0,
            y + 4.0
        );
    }
    let files: Vec<u64> = all.iter().map(|figures| figures.files).collect();
    for count in &files {
        let x = across(*count, &files);
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{count}</text>",
            TOP + HEIGHT + 20.0
        );
    }
    for (number, case) in CASES.iter().enumerate() {
        let points: Vec<(u64, f64)> = all
            .iter()
            .filter_map(|figures| Some((figures.files, *figures.figures.get(case.name)?)))
            .filter(|(_, value)| *value > 0.0)
            .collect();
        let (Some((_, first)), Some((_, last))) = (points.first(), points.last()) else { continue };
        let colour = format!("hsl({}, 70%, 40%)", number * 360 / CASES.len());
        let line: Vec<String> = points
            .iter()
            .map(|(count, value)| {
                format!("{:.1},{:.1}", across(*count, &files), height((value / first).log2()))
            })
            .collect();
        let y = TOP + LEGEND_ROW * number as f64;
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
             <text x=\"{}\" y=\"{y}\" fill=\"{colour}\">{}: {} to {} {}</text>",
            line.join(" "),
            LEFT + WIDTH + 20.0,
            case.what,
            shown(*first),
            shown(*last),
            case.unit
        );
    }
    out.push_str("</svg>\n");
    out
}

fn height(power: f64) -> f64 {
    TOP + HEIGHT / 2.0 * (1.0 - power.clamp(-RANGE, RANGE) / RANGE)
}

fn across(count: u64, all: &[u64]) -> f64 {
    let (Some(&least), Some(&most)) = (all.first(), all.last()) else { return LEFT };
    let whole = (most as f64 / least as f64).ln();
    let part = (count as f64 / least as f64).ln();
    LEFT + if whole > 0.0 { WIDTH * part / whole } else { 0.0 }
}
