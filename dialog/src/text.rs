//! What people type, within its bounds: a message's text, a dialog's title, a client's key. Parsed at the edge; inside,
//! nothing is checked again.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::Error;

/// The longest text, in characters.
const TEXT_MAX: usize = 4_000;
/// The longest title, in characters.
const TITLE_MAX: usize = 64;
/// The longest key, in characters.
const KEY_MAX: usize = 64;

/// The text of a message: 1 to 4,000 characters, of control characters line breaks and tabs alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(String);

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({} bytes)", self.0.len())
    }
}

impl Text {
    /// Reads a text.
    ///
    /// # Errors
    /// [`Error::Invalid`] out of its bounds.
    pub fn parse(text: String) -> Result<Self, Error> {
        if !holds(&text, TEXT_MAX) {
            return Err(Error::Invalid("a text has 1 to 4000 characters"));
        }
        if text.chars().any(|char| char.is_control() && char != '\n' && char != '\t') {
            return Err(Error::Invalid("a text has no control characters but line breaks and tabs"));
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is kept of the text beside a client's key.
    pub fn hash(&self) -> Vec<u8> {
        Sha256::digest(self.0.as_bytes()).to_vec()
    }
}

/// The title of a group: 1 to 64 characters, no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Title(String);

impl Title {
    /// Reads a title.
    ///
    /// # Errors
    /// [`Error::Invalid`] out of its bounds.
    pub fn parse(text: String) -> Result<Self, Error> {
        let fits = holds(&text, TITLE_MAX) && !text.chars().any(char::is_control);
        fits.then_some(Self(text))
            .ok_or(Error::Invalid("a title has 1 to 64 characters, none of them control characters"))
    }

    /// The title.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a client names a call by, so that repeating it is safe: 1 to 64 characters, no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientKey(String);

impl ClientKey {
    /// Reads a key.
    ///
    /// # Errors
    /// [`Error::Invalid`] out of its bounds.
    pub fn parse(text: String) -> Result<Self, Error> {
        let fits = holds(&text, KEY_MAX) && !text.chars().any(char::is_control);
        fits.then_some(Self(text))
            .ok_or(Error::Invalid("a clientKey has 1 to 64 characters, none of them control characters"))
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether there are 1 to `max` characters.
fn holds(text: &str, max: usize) -> bool {
    !text.is_empty() && text.chars().nth(max).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_1_to_4000_characters() {
        for good in ["a", "zwei\nZeilen\tund 👋", &"é".repeat(4_000)] {
            let text = Text::parse(good.to_owned()).unwrap();
            assert_eq!(text.as_str(), good);
            assert_eq!(format!("{text:?}"), format!("Text({} bytes)", good.len()));
        }
        for bad in ["", "nul\0", "bell\u{7}", "\r\n", "\u{7f}", "\u{85}", &"é".repeat(4_001)] {
            assert!(matches!(Text::parse(bad.to_owned()), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn titles_and_keys_have_1_to_64_characters_and_one_line() {
        for good in ["a", "Ferien 2031", &"ß".repeat(64)] {
            assert_eq!(Title::parse(good.to_owned()).unwrap().as_str(), good);
            assert_eq!(ClientKey::parse(good.to_owned()).unwrap().as_str(), good);
        }
        for bad in ["", "two\nlines", "nul\0", "tab\t", &"ß".repeat(65)] {
            assert!(matches!(Title::parse(bad.to_owned()), Err(Error::Invalid(_))), "{bad:?}");
            assert!(matches!(ClientKey::parse(bad.to_owned()), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn texts_that_differ_have_hashes_that_differ() {
        let hash = |text: &str| Text::parse(text.to_owned()).unwrap().hash();
        assert_eq!(hash("a"), hash("a"));
        assert_ne!(hash("a"), hash("b"));
    }
}
