//! Cursors: opaque text that names the list it belongs to, so that a cursor of another list is rejected.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::str::FromStr;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::error::Error;

/// Longer text is rejected before it is decoded. The longest positions are logins of 32 characters.
const LENGTH_MAX: usize = 256;

/// A paged list: its kind and the object that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct List<'a> {
    kind: &'static str,
    parent: &'a str,
}

impl<'a> List<'a> {
    /// Creates the list of this kind that belongs to `parent`. `kind` must not contain `:`.
    pub const fn new(kind: &'static str, parent: &'a str) -> Self {
        Self { kind, parent }
    }

    /// Returns the cursor of a position in this list.
    pub fn cursor(&self, position: &str) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}{position}", self.prefix()))
    }

    /// Returns the position of a cursor.
    ///
    /// # Errors
    /// BAD_USER_INPUT if the cursor is malformed or belongs to another list.
    pub fn position<T: FromStr>(&self, cursor: &str) -> Result<T, Error> {
        self.parse(cursor).ok_or_else(|| Error::input("the cursor does not belong to this list"))
    }

    fn parse<T: FromStr>(&self, cursor: &str) -> Option<T> {
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
    fn a_cursor_is_valid_only_in_its_own_list() {
        let list = List::new("messages", "a-dialog");
        let cursor = list.cursor("17");
        assert_eq!(list.position::<i64>(&cursor), Ok(17));
        for other in
            [List::new("messages", "b-dialog"), List::new("users", "a-dialog"), List::new("message", "s:a")]
        {
            let error = other.position::<i64>(&cursor).expect_err("the cursor is of another list");
            assert_eq!(error.code(), Code::BadUserInput);
        }
    }

    #[test]
    fn malformed_cursors_are_rejected() {
        let list = List::new("messages", "a-dialog");
        let long = list.cursor(&"1".repeat(300));
        let padded = format!("{}=", list.cursor("17"));
        let word = list.cursor("seventeen");
        for text in ["", "17", "bWVzc2FnZXM", "\0", "é", "////", &long, &padded, &word] {
            let error = list.position::<i64>(text).expect_err("the cursor is malformed");
            assert_eq!(error.code(), Code::BadUserInput, "{text}");
        }
    }
}
