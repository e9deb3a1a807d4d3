//! Flame graph of the samples that `perf script` prints: reads them from standard input and writes an SVG
//! to standard output. Width is CPU time; a frame stands on its caller. The pointer on a frame shows its
//! name and share. `bench/flamegraph` records the samples.

#![expect(clippy::print_stdout, reason = "the picture is the program's output")]

use std::{
    collections::BTreeMap,
    fmt::Write,
    io::{Read, stdin},
};

const WIDTH: f64 = 1_600.0;
const ROW: f64 = 17.0;
const MARGIN: f64 = 24.0;
/// Narrower frames are not drawn.
const NARROWEST: f64 = 1.5;
/// Width of a letter.
const LETTER: f64 = 6.6;

/// Function with the number of samples in it and its callees.
#[derive(Debug, Default, PartialEq)]
struct Frame {
    samples: u64,
    callees: BTreeMap<String, Frame>,
}

impl Frame {
    /// Adds a stack, outermost function first.
    fn add<'a>(&mut self, stack: impl Iterator<Item = &'a str>) {
        self.samples += 1;
        let mut frame = self;
        for function in stack {
            frame = frame.callees.entry(function.to_owned()).or_default();
            frame.samples += 1;
        }
    }

    /// Returns the number of functions on the deepest stack.
    fn depth(&self) -> usize {
        self.callees.values().map(|callee| 1 + callee.depth()).max().unwrap_or_default()
    }
}

/// Collects the stacks of `perf script -F comm,ip,sym`: a line with the thread's name, then the functions
/// from the innermost on, indented, then an empty line.
fn collapse(text: &str) -> Frame {
    let mut root = Frame::default();
    for sample in text.split("\n\n") {
        let mut lines = sample.trim_start_matches('\n').lines();
        let Some(thread) = lines.next().map(str::trim).filter(|thread| !thread.is_empty()) else { continue };
        let mut stack: Vec<String> = lines.map(function).collect();
        stack.push(thread.to_owned());
        root.add(stack.iter().rev().map(String::as_str));
    }
    root
}

/// Returns the name of a function in a line `ip name+offset`, without the hash of Rust and the offset.
fn function(line: &str) -> String {
    let name = line.trim().split_once(' ').map_or("[unknown]", |(_, name)| name);
    let name = name.rsplit_once("+0x").map_or(name, |(name, _)| name);
    let hash = |hash: &str| hash.len() == 16 && hash.chars().all(|digit| digit.is_ascii_hexdigit());
    match name.rsplit_once("::h") {
        Some((path, last)) if hash(last) => path.to_owned(),
        _ => name.to_owned(),
    }
}

/// Draws all frames, the outermost at the bottom.
fn draw(root: &Frame, title: &str) -> String {
    let height = MARGIN * 2.0 + ROW * (root.depth() as f64);
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' font-family='monospace' \
         font-size='11'>\n<rect width='100%' height='100%' fill='#fff'/>\n\
         <text x='8' y='16'>{}: {} samples</text>\n",
        escape(title),
        root.samples
    );
    draw_callees(
        &mut svg,
        root,
        0.0,
        height - MARGIN - ROW,
        WIDTH / root.samples.max(1) as f64,
        root.samples,
    );
    svg.push_str("</svg>\n");
    svg
}

fn draw_callees(svg: &mut String, frame: &Frame, x: f64, y: f64, scale: f64, all: u64) {
    let mut x = x;
    for (name, callee) in &frame.callees {
        let width = callee.samples as f64 * scale;
        if width >= NARROWEST {
            let share = callee.samples as f64 * 100.0 / all.max(1) as f64;
            let letters = (width / LETTER) as usize;
            let label: String =
                if letters < 4 { String::new() } else { name.chars().take(letters - 1).collect() };
            let _ = writeln!(
                svg,
                "<g><title>{} ({share:.2} %)</title><rect x='{x:.1}' y='{y:.1}' width='{width:.1}' \
                 height='{:.1}' fill='{}' stroke='#fff' stroke-width='0.4'/>\
                 <text x='{:.1}' y='{:.1}'>{}</text></g>",
                escape(name),
                ROW - 1.0,
                colour(name),
                x + 2.0,
                y + 12.0,
                escape(&label)
            );
            draw_callees(svg, callee, x, y - ROW, scale, all);
        }
        x += width;
    }
}

/// Returns a warm colour that a name always has.
fn colour(name: &str) -> String {
    let hash = name.bytes().fold(5381_u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(byte));
    format!("rgb({},{},{})", 205 + hash % 50, 90 + (hash >> 8) % 130, 40 + (hash >> 16) % 50)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn main() -> anyhow::Result<()> {
    let mut text = String::new();
    stdin().read_to_string(&mut text)?;
    let title = std::env::args().nth(1).unwrap_or_else(|| "CPU time".to_owned());
    print!("{}", draw(&collapse(&text), &title));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: &str = "tokio-worker \n\t 10 b::f::h0123456789abcdef+0x1\n\t 20 a<T>+0x2\n\n\
                           tokio-worker \n\t 30 a<T>+0x9\n\n";

    #[test]
    fn stacks_with_the_same_callers_share_a_frame() {
        let root = collapse(SAMPLES);
        let thread = &root.callees["tokio-worker"];
        assert_eq!((root.samples, thread.samples, thread.callees["a<T>"].samples), (2, 2, 2));
        assert_eq!(thread.callees["a<T>"].callees["b::f"].samples, 1);
        assert_eq!(root.depth(), 3);
    }

    #[test]
    fn the_picture_names_every_frame_and_is_escaped() {
        let svg = draw(&collapse(SAMPLES), "sends & page");
        assert!(svg.contains("a&lt;T&gt; (100.00 %)") && svg.contains("b::f (50.00 %)"), "{svg}");
        assert!(svg.contains("sends &amp; page: 2 samples"));
        assert_eq!(collapse(""), Frame::default());
    }
}
