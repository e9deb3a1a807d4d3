//! Bending: valid bytes, texts and JSON become almost valid ones.

use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};
use serde_json::{Map, Value, json};

/// What tends to break readers.
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

/// One of these.
pub fn one<'a, T: ?Sized>(random: &mut SmallRng, choices: &[&'a T]) -> &'a T {
    choices.choose(random).copied().expect("there is a choice")
}

/// Changes a few bytes: flipped, removed, doubled, replaced, cut off.
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

/// Changes a few characters of a text; it stays one.
pub fn text(random: &mut SmallRng, text: &str) -> String {
    let mut bent = text.as_bytes().to_vec();
    bytes(random, &mut bent);
    String::from_utf8_lossy(&bent).into_owned()
}

/// A string that may be awkward.
pub fn string(random: &mut SmallRng) -> String {
    match random.random_range(0..8) {
        0 => one(random, &AWKWARD).repeat(random.random_range(1..4)),
        1 => "x".repeat(random.random_range(0..400)),
        2 => (0..random.random_range(0..12)).map(|_| random.random::<char>()).collect(),
        _ => (0..random.random_range(1..12)).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect(),
    }
}

/// Any JSON, a few levels deep.
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

/// Any JSON object.
pub fn object(random: &mut SmallRng, depth: usize) -> Map<String, Value> {
    (0..random.random_range(0..4)).map(|_| (string(random), value(random, depth))).collect()
}

/// Brackets inside brackets, more than any reader follows.
pub fn deep(random: &mut SmallRng) -> String {
    let (open, close) = *[("[", "]"), ("{\"a\":", "}")].choose(random).expect("there is a choice");
    let depth = random.random_range(100..3_000);
    let closed = if random.random() { depth } else { 0 };
    format!("{}1{}", open.repeat(depth), close.repeat(closed))
}
