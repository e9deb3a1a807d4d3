//! Flame graph: a picture of stacks, as SVG without scripts and styles. Width is the weight of the stacks,
//! CPU time or bytes; a frame stands on its caller. The pointer on a frame shows its name and share.

use std::{collections::BTreeMap, fmt::Write};

const WIDTH: f64 = 1_600.0;
const ROW: f64 = 17.0;
const MARGIN: f64 = 24.0;
/// Narrower frames are not drawn.
const NARROWEST: f64 = 1.5;
/// Width of a letter.
const LETTER: f64 = 6.6;
/// Maximum length of a name, in characters: names of generic functions can have thousands.
const NAME_MAX: usize = 160;

/// Function with the weight of the stacks that it is on, and its callees.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Weight of this function and its callees.
    pub weight: u64,
    /// Callees by name.
    pub callees: BTreeMap<String, Frame>,
}

impl Frame {
    /// Adds a stack, outermost function first.
    pub fn add<'a>(&mut self, stack: impl Iterator<Item = &'a str>, weight: u64) {
        self.weight += weight;
        let mut frame = self;
        for function in stack {
            frame = frame.callees.entry(function.to_owned()).or_default();
            frame.weight += weight;
        }
    }

    /// Returns the number of functions on the deepest stack.
    pub fn depth(&self) -> usize {
        self.callees.values().map(|callee| 1 + callee.depth()).max().unwrap_or_default()
    }

    /// Draws all frames, the outermost at the bottom. The heading names the total with its unit.
    #[expect(clippy::cast_precision_loss, reason = "a picture")]
    pub fn draw(&self, title: &str, unit: &str) -> String {
        let height = MARGIN * 2.0 + ROW * (self.depth() as f64);
        let mut svg = format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' \
             font-family='monospace' font-size='11'>\n<rect width='100%' height='100%' fill='#fff'/>\n\
             <text x='8' y='16'>{}: {} {unit}</text>\n",
            escape(title),
            self.weight
        );
        let scale = WIDTH / self.weight.max(1) as f64;
        self.draw_callees(&mut svg, 0.0, height - MARGIN - ROW, scale);
        svg.push_str("</svg>\n");
        svg
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a picture"
    )]
    fn draw_callees(&self, svg: &mut String, x: f64, y: f64, scale: f64) {
        let mut x = x;
        for (name, callee) in &self.callees {
            let width = callee.weight as f64 * scale;
            if width >= NARROWEST {
                let share = width * 100.0 / WIDTH;
                let letters = (width / LETTER) as usize;
                let label: String =
                    if letters < 4 { String::new() } else { name.chars().take(letters - 1).collect() };
                let _ = writeln!(
                    svg,
                    "<g><title>{} ({share:.2} %)</title><rect x='{x:.1}' y='{y:.1}' width='{width:.1}' \
                     height='{:.1}' fill='{}' stroke='#fff' stroke-width='0.4'/>\
                     <text x='{:.1}' y='{:.1}'>{}</text></g>",
                    escape(&shortened(name)),
                    ROW - 1.0,
                    colour(name),
                    x + 2.0,
                    y + 12.0,
                    escape(&label)
                );
                callee.draw_callees(svg, x, y - ROW, scale);
            }
            x += width;
        }
    }
}

/// Returns a warm colour that a name always has.
fn colour(name: &str) -> String {
    let hash = name.bytes().fold(5381_u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(byte));
    format!("rgb({},{},{})", 205 + hash % 50, 90 + (hash >> 8) % 130, 40 + (hash >> 16) % 50)
}

fn shortened(name: &str) -> String {
    match name.char_indices().nth(NAME_MAX) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_with_the_same_callers_share_a_frame() {
        let mut root = Frame::default();
        root.add(["worker", "a<T>", "b::f"].into_iter(), 1);
        root.add(["worker", "a<T>"].into_iter(), 3);
        let thread = &root.callees["worker"];
        assert_eq!((root.weight, thread.weight, thread.callees["a<T>"].weight), (4, 4, 4));
        assert_eq!(thread.callees["a<T>"].callees["b::f"].weight, 1);
        assert_eq!(root.depth(), 3);
    }

    #[test]
    fn the_picture_names_every_frame_and_is_escaped() {
        let mut root = Frame::default();
        root.add(["worker", "a<T>", "b::f"].into_iter(), 1);
        root.add(["worker", "a<T>"].into_iter(), 1);
        let svg = root.draw("sends & page", "samples");
        assert!(svg.contains("a&lt;T&gt; (100.00 %)") && svg.contains("b::f (50.00 %)"), "{svg}");
        assert!(svg.contains("sends &amp; page: 2 samples"), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn a_long_name_is_cut_and_stays_a_frame_of_its_own() {
        let mut root = Frame::default();
        for end in ["a", "b"] {
            root.add([format!("{}{end}", "ä".repeat(200)).as_str()].into_iter(), 1);
        }
        let svg = root.draw("long", "samples");
        assert_eq!(svg.matches(&format!("<title>{}… (50.00 %)", "ä".repeat(NAME_MAX))).count(), 2, "{svg}");
    }

    #[test]
    fn a_picture_without_stacks_is_empty() {
        let svg = Frame::default().draw("idle", "samples");
        assert!(svg.contains("idle: 0 samples") && !svg.contains("<g>"), "{svg}");
    }
}
