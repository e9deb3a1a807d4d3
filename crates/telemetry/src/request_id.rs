//! Request id: given by the client or generated here, and carried by every log line, call and event of
//! the request.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::{fmt, sync::Arc};

use uuid::Uuid;

/// Maximum length of an id, in characters.
const LENGTH_MAX: usize = 64;

/// Request id of 1 to 64 visible ASCII characters. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Parses an id. Returns `None` if it is empty, longer than 64 characters or not visible ASCII.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=LENGTH_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(text.into()))
    }

    /// Generates a random id.
    pub fn random() -> Self {
        Self(Uuid::new_v4().to_string().into())
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_to_64_visible_characters() {
        let longest = "x".repeat(64);
        for valid in ["a", "~!@#", "0-1_2", longest.as_str(), RequestId::random().as_str()] {
            assert_eq!(RequestId::parse(valid).map(|id| id.to_string()).as_deref(), Some(valid));
        }
        let too_long = "x".repeat(65);
        for invalid in
            ["", " ", "a b", "tab\t", "line\nbreak", "ümlaut", "nul\0", "\u{7f}", too_long.as_str()]
        {
            assert_eq!(RequestId::parse(invalid), None, "{invalid:?}");
        }
    }

    #[test]
    fn random_ids_differ() {
        assert_ne!(RequestId::random(), RequestId::random());
    }
}
