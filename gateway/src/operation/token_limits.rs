//! Limits that hold before a document is parsed: its number of lexical tokens and the nesting of its
//! brackets. One pass over the text without allocation, so that rejecting an oversized document is
//! cheap.

#![warn(clippy::indexing_slicing, clippy::panic)]

use crate::error::{Code, Error};

/// Most lexical tokens of a document.
pub const TOKENS_MAX: usize = 15_000;
/// Deepest nesting of brackets, of all kinds together. Also protects the recursive parser's stack.
pub const BRACKETS_MAX: usize = 64;

/// Checks the limits of a document. It does not check the syntax, which is the parser's task.
///
/// # Errors
/// LIMIT_EXCEEDED.
pub fn check(document: &str) -> Result<(), Error> {
    let mut rest = document.as_bytes();
    let mut tokens = 0_usize;
    let mut brackets = 0_usize;
    while let Some((&byte, _)) = rest.split_first() {
        let length = match byte {
            b' ' | b'\t' | b'\n' | b'\r' | b',' | 0xef | 0xbb | 0xbf => {
                rest = after(rest, 1);
                continue;
            }
            b'#' => {
                rest = after(rest, comment(rest));
                continue;
            }
            b'"' => string(rest),
            b'_' | b'a'..=b'z' | b'A'..=b'Z' => {
                token(rest, |byte| byte == b'_' || byte.is_ascii_alphanumeric())
            }
            b'-' | b'0'..=b'9' => {
                token(rest, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-'))
            }
            b'.' => token(rest, |byte| byte == b'.'),
            _ => 1,
        };
        match byte {
            b'(' | b'[' | b'{' => brackets += 1,
            b')' | b']' | b'}' => brackets = brackets.saturating_sub(1),
            _ => {}
        }
        tokens += 1;
        if tokens > TOKENS_MAX {
            return Err(exceeded(format!("the document has more than {TOKENS_MAX} tokens")));
        }
        if brackets > BRACKETS_MAX {
            return Err(exceeded(format!("the document nests brackets deeper than {BRACKETS_MAX}")));
        }
        rest = after(rest, length);
    }
    Ok(())
}

fn exceeded(message: String) -> Error {
    Error::new(Code::LimitExceeded, message)
}

/// Returns the bytes after the first `count`.
fn after(bytes: &[u8], count: usize) -> &[u8] {
    bytes.get(count..).unwrap_or_default()
}

/// Returns the length of the token that starts here and continues with bytes of this kind; at least one byte.
fn token(bytes: &[u8], is: impl Fn(u8) -> bool) -> usize {
    bytes.iter().skip(1).position(|byte| !is(*byte)).map_or(bytes.len(), |found| found + 1)
}

/// Returns the length of a comment, which ends at the end of its line.
fn comment(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(bytes.len())
}

/// Returns the length of a string or block string with its quotes. An unterminated one ends with its
/// line or the document.
fn string(bytes: &[u8]) -> usize {
    if let Some(block) = bytes.strip_prefix(b"\"\"\"") {
        let mut at = 0;
        while at < block.len() {
            let here = after(block, at);
            if here.starts_with(b"\\\"\"\"") {
                at += 4;
            } else if here.starts_with(b"\"\"\"") {
                return at + 6;
            } else {
                at += 1;
            }
        }
        return bytes.len();
    }
    let mut escaped = false;
    for (at, byte) in bytes.iter().enumerate().skip(1) {
        match byte {
            b'\n' | b'\r' => return at,
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(count: usize) -> String {
        format!("{{{}}}", " a".repeat(count))
    }

    #[test]
    fn tokens_are_counted_by_the_rules_of_the_specification() {
        // Each document is padded to the limit: one more token is rejected.
        for (document, tokens) in [
            ("{ a }", 3),
            ("{,a\t\u{feff}, b # c d e\n}", 4),
            ("query Q($x: [Int!]! = [-1.5e+3, 2]) @a { ...F }", 23),
            (r#"{ a(b: "c d \" e", f: """g " h \""" i""") }"#, 11),
            ("{ a(b: \"ü ß\") ... on T { c } }", 14),
            ("{ a # \" not a string\n b }", 4),
        ] {
            let padded = |count: usize| format!("{document}{}", " a".repeat(count));
            assert!(check(&padded(TOKENS_MAX - tokens)).is_ok(), "{document}");
            let error = check(&padded(TOKENS_MAX - tokens + 1)).expect_err(document);
            assert_eq!(error.code(), Code::LimitExceeded);
        }
    }

    #[test]
    fn a_document_at_the_limit_passes() {
        assert!(check(&fields(TOKENS_MAX - 2)).is_ok());
        assert!(check(&fields(TOKENS_MAX - 1)).is_err());
        let nested = |depth: usize| format!("{}{}", "{a".repeat(depth), "}".repeat(depth));
        assert!(check(&nested(BRACKETS_MAX)).is_ok());
        assert!(check(&nested(BRACKETS_MAX + 1)).is_err());
    }

    #[test]
    fn unterminated_strings_and_unknown_bytes_end() {
        for text in [
            "",
            "\"",
            "\"\"\"",
            "\"\"\"\\\"\"\"",
            "\"a\nb\"",
            "\\",
            "\0",
            "é",
            "{{{",
            "}}}",
            "\"\\",
            "..",
            "-",
        ] {
            assert!(check(text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_million_brackets_are_rejected() {
        for bracket in ["{", "[", "(", "{a", "[[]"] {
            let document = bracket.repeat(1_000_000 / bracket.len());
            assert_eq!(check(&document).expect_err(bracket).code(), Code::LimitExceeded);
        }
    }
}
