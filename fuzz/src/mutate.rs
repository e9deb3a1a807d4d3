//! Mutations: valid bytes, texts and JSON become almost valid ones.

use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};
use serde_json::{Map, Value, json};

/// Fragments that often break parsers.
const AWKWARD: [&str; 16] = [
    "",
    "\0",
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "null",
    "-0",
    "1e999",
    "\u{feff}",
    "\u{202e}",
    "🏃‍♀️",
    "\\u0000",
    "\\ud800",
    "é",
];

/// Chooses one at random.
pub fn one<'a, T: ?Sized>(random: &mut SmallRng, choices: &[&'a T]) -> &'a T {
    choices.choose(random).copied().expect("the choices are not empty")
}

/// Flips, removes, inserts, duplicates or truncates a few bytes.
pub fn bytes(random: &mut SmallRng, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 => bytes.insert(at, random.random()),
            3 => bytes.truncate(at),
            4 => drop(bytes.splice(at..at, one(random, &AWKWARD).bytes())),
            _ => {
                let end = (at + random.random_range(0..16)).min(bytes.len());
                bytes.extend_from_within(at..end);
            }
        }
    }
}

/// Mutates the bytes of a text. The result is UTF-8.
pub fn text(random: &mut SmallRng, text: &str) -> String {
    let mut mutated = text.as_bytes().to_vec();
    bytes(random, &mut mutated);
    String::from_utf8_lossy(&mutated).into_owned()
}

/// Generates a string, sometimes an awkward one.
pub fn string(random: &mut SmallRng) -> String {
    match random.random_range(0..8) {
        0 => one(random, &AWKWARD).repeat(random.random_range(1..4)),
        1 => "x".repeat(random.random_range(0..400)),
        2 => (0..random.random_range(0..12)).map(|_| random.random::<char>()).collect(),
        _ => (0..random.random_range(1..12)).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect(),
    }
}

/// Generates JSON with this many nested levels at most.
pub fn value(random: &mut SmallRng, depth: usize) -> Value {
    match random.random_range(0..if depth == 0 { 6 } else { 8 }) {
        0 => Value::Null,
        1 => json!(random.random::<bool>()),
        2 => json!(random.random::<i64>()),
        3 => json!(random.random::<f64>() * 1e300),
        4 | 5 => json!(string(random)),
        6 => (0..random.random_range(0..4)).map(|_| value(random, depth - 1)).collect(),
        _ => object(random, depth - 1).into(),
    }
}

/// Generates a JSON object with this many nested levels at most.
pub fn object(random: &mut SmallRng, depth: usize) -> Map<String, Value> {
    (0..random.random_range(0..4)).map(|_| (string(random), value(random, depth))).collect()
}

/// Generates more nested brackets than any parser accepts.
pub fn deep(random: &mut SmallRng) -> String {
    let (open, close) = *[("[", "]"), ("{\"a\":", "}")].choose(random).expect("the choices are not empty");
    let depth = random.random_range(100..3_000);
    let closed = if random.random() { depth } else { 0 };
    format!("{}1{}", open.repeat(depth), close.repeat(closed))
}
