//! Cursors: opaque text that carries which list it belongs to, so that one from elsewhere is recognised and refused.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::str::FromStr;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::error::Error;

/// Longer text is no cursor of ours; logins, the longest positions, have 32 characters.
const LENGTH_MAX: usize = 256;

/// A list that is paged: what it lists, and of whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct List<'a> {
    kind: &'static str,
    parent: &'a str,
}

impl<'a> List<'a> {
    /// The list of this kind (without `:`) that belongs to `parent`.
    pub const fn new(kind: &'static str, parent: &'a str) -> Self {
        Self { kind, parent }
    }

    /// The cursor of this position.
    pub fn cursor(&self, position: &str) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}{position}", self.prefix()))
    }

    /// The position of a cursor.
    ///
    /// # Errors
    /// BAD_USER_INPUT where it is not one of this list.
    pub fn position<T: FromStr>(&self, cursor: &str) -> Result<T, Error> {
        self.read(cursor).ok_or_else(|| Error::input("the cursor does not belong to this list"))
    }

    fn read<T: FromStr>(&self, cursor: &str) -> Option<T> {
        if cursor.len() > LENGTH_MAX {
            return None;
        }
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        text.strip_prefix(&self.prefix())?.parse().ok()
    }

    fn prefix(&self) -> String {
        format!("{}:{}:", self.kind, self.parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn a_cursor_reads_back_in_its_own_list_alone() {
        let list = List::new("messages", "a-dialog");
        let cursor = list.cursor("17");
        assert_eq!(list.position::<i64>(&cursor), Ok(17));
        for other in
            [List::new("messages", "b-dialog"), List::new("users", "a-dialog"), List::new("message", "s:a")]
        {
            assert_eq!(other.position::<i64>(&cursor).expect_err("refused").code(), Code::BadUserInput);
        }
    }

    #[test]
    fn strange_text_is_refused() {
        let list = List::new("messages", "a-dialog");
        let long = list.cursor(&"1".repeat(300));
        let padded = format!("{}=", list.cursor("17"));
        let word = list.cursor("seventeen");
        for text in ["", "17", "bWVzc2FnZXM", "\0", "é", "////", &long, &padded, &word] {
            let error = list.position::<i64>(text).expect_err("refused");
            assert_eq!(error.code(), Code::BadUserInput, "{text}");
        }
    }
}
