//! The ratios as an SVG: a bar for each case, to the right where the first system is better than the best peer, to the
//! left where it is not; each line of the grid is twice the one before.

use std::fmt::Write;

use super::report::{Summaries, geometric_mean, ratios};

const ROW: f64 = 22.0;
const LEFT: f64 = 150.0;
const WIDTH: f64 = 640.0;
/// Powers of two to either side.
const RANGE: f64 = 4.0;

/// Draws them.
pub fn svg(systems: &[(String, Summaries)]) -> String {
    let ratios = ratios(systems);
    let names: Vec<&str> = systems.iter().map(|(name, _)| name.as_str()).collect();
    let height = ROW * (ratios.len() as f64 + 3.0);
    let at = |power: f64| LEFT + WIDTH * (power.clamp(-RANGE, RANGE) + RANGE) / (2.0 * RANGE);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        LEFT + WIDTH + 60.0
    );
    let title = match (names.split_first(), geometric_mean(&ratios)) {
        (Some((ours, peers)), Some(mean)) => {
            format!("{ours} against the best of {}: geometric mean {mean:.2}", peers.join(", "))
        }
        _ => "nothing to compare".to_owned(),
    };
    // A String takes all that is written to it.
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"15\" font-weight=\"bold\">{}</text>", escaped(&title));
    for power in -(RANGE as i32)..=RANGE as i32 {
        let (x, bottom) = (at(f64::from(power)), height - ROW);
        let colour = if power == 0 { "black" } else { "#ddd" };
        let label = if power < 0 { format!("1/{}", 1 << -power) } else { (1 << power).to_string() };
        let _ =
            writeln!(out, "<line x1=\"{x}\" x2=\"{x}\" y1=\"{ROW}\" y2=\"{bottom}\" stroke=\"{colour}\"/>");
        let _ =
            writeln!(out, "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", bottom + 15.0);
    }
    for (row, (name, ratio)) in ratios.iter().enumerate() {
        let (y, end) = (ROW * (row as f64 + 1.0) + 4.0, at(ratio.log2()));
        let (x, width) = (end.min(at(0.0)), (end - at(0.0)).abs());
        let colour = if *ratio >= 1.0 { "#2a7" } else { "#c53" };
        let _ =
            writeln!(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>", LEFT - 8.0, y + 11.0);
        let _ =
            writeln!(out, "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"14\" fill=\"{colour}\"/>");
        let _ = writeln!(out, "<text x=\"{}\" y=\"{}\">{ratio:.2}</text>", LEFT + WIDTH + 10.0, y + 11.0);
    }
    out.push_str("</svg>\n");
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
