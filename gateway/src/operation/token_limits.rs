//! Limits that hold before a document is parsed: its number of lexical tokens and the nesting of its
//! brackets. One pass over the text without allocation, so that rejecting an oversized document is
//! cheap.

#![warn(clippy::indexing_slicing, clippy::panic)]

use super::lexical::Tokens;
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
    let mut brackets = 0_usize;
    for (index, token) in Tokens::new(document).enumerate() {
        match token.text {
            "(" | "[" | "{" => brackets += 1,
            ")" | "]" | "}" => brackets = brackets.saturating_sub(1),
            _ => {}
        }
        if index >= TOKENS_MAX {
            return Err(exceeded(format!("the document has more than {TOKENS_MAX} tokens")));
        }
        if brackets > BRACKETS_MAX {
            return Err(exceeded(format!("the document nests brackets deeper than {BRACKETS_MAX}")));
        }
    }
    Ok(())
}

fn exceeded(message: String) -> Error {
    Error::new(Code::LimitExceeded, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(count: usize) -> String {
        format!("{{{}}}", " a".repeat(count))
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
    fn a_million_brackets_are_rejected() {
        for bracket in ["{", "[", "(", "{a", "[[]"] {
            let document = bracket.repeat(1_000_000 / bracket.len());
            assert_eq!(check(&document).expect_err(bracket).code(), Code::LimitExceeded);
        }
    }
}
