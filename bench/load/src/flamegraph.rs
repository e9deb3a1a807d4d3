//! Flame graph of the samples that `perf script` prints: reads them from standard input and writes an SVG
//! to standard output. Width is CPU time; a frame stands on its caller. The pointer on a frame shows its
//! name and share. `bench/flamegraph` records the samples.

#![expect(clippy::print_stdout, reason = "the picture is the program's output")]

use std::io::{Read, stdin};

use profiles::flamegraph::Frame;

/// Collects the stacks of `perf script -F comm,ip,sym`: a line with the thread's name, then the functions
/// from the innermost on, indented, then an empty line.
fn collapse(text: &str) -> Frame {
    let mut root = Frame::default();
    for sample in text.split("\n\n") {
        let mut lines = sample.trim_start_matches('\n').lines();
        let Some(thread) = lines.next().map(str::trim).filter(|thread| !thread.is_empty()) else { continue };
        let mut stack: Vec<String> = lines.map(function).collect();
        stack.push(thread.to_owned());
        root.add(stack.iter().rev().map(String::as_str), 1);
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

fn main() -> anyhow::Result<()> {
    let mut text = String::new();
    stdin().read_to_string(&mut text)?;
    let title = std::env::args().nth(1).unwrap_or_else(|| "CPU time".to_owned());
    print!("{}", collapse(&text).draw(&title, "samples"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_from_the_innermost_function_on() {
        let root = collapse(
            "tokio-worker \n\t 10 b::f::h0123456789abcdef+0x1\n\t 20 a<T>+0x2\n\n\
             tokio-worker \n\t 30 a<T>+0x9\n\n",
        );
        let thread = &root.callees["tokio-worker"];
        assert_eq!((root.weight, thread.weight, thread.callees["a<T>"].weight), (2, 2, 2));
        assert_eq!(thread.callees["a<T>"].callees["b::f"].weight, 1);
        assert_eq!(root.depth(), 3);
        assert_eq!(collapse(""), Frame::default());
    }
}
