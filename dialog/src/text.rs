//! Text inputs: message text, dialog title and client key. Each is parsed once, by the gRPC layer, into
//! a type that guarantees its limits.

use std::fmt;

use sha2::{Digest, Sha256};
use visible_text::{is_label, is_visible};

use crate::Error;

/// Maximum length of a message text, in characters.
const TEXT_MAX: usize = 4_000;
/// Maximum length of a title, in characters.
const TITLE_MAX: usize = 64;
/// Maximum length of a client key, in characters.
const KEY_MAX: usize = 64;

/// Text of a message: 1 to 4,000 characters, at least one of them visible, no control characters except
/// line feed and tab. `Debug` prints its length.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Text(String);

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({} bytes)", self.0.len())
    }
}

impl Text {
    /// Parses a message text. `\r\n` and `\r` become `\n`, because clients end lines differently.
    /// The limit and the hash of a client key apply to the result.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a wrong length, another control character, or a text without a visible
    /// character.
    pub(crate) fn parse(text: String) -> Result<Self, Error> {
        let text = with_line_feeds(text);
        if !has_length(&text, TEXT_MAX) {
            return Err(Error::Invalid("a text has 1 to 4000 characters"));
        }
        if text.chars().any(|char| char.is_control() && char != '\n' && char != '\t') {
            return Err(Error::Invalid("a text has no control characters except line feed and tab"));
        }
        if !is_visible(&text) {
            return Err(Error::Invalid("a text has at least one visible character"));
        }
        Ok(Self(text))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the hash that is stored with a client key. The text itself can be deleted.
    pub(crate) fn hash(&self) -> Vec<u8> {
        Sha256::digest(self.0.as_bytes()).to_vec()
    }
}

/// Title of a group: 1 to 64 characters, at least one of them visible. No control characters, which
/// include line breaks, and no bidirectional embeddings, overrides or isolates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Title(String);

impl Title {
    /// Parses a title.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a wrong length, for a title without a visible character, and for a control
    /// character, also a bidirectional one.
    pub(crate) fn parse(text: String) -> Result<Self, Error> {
        is_label(&text, TITLE_MAX).then_some(Self(text)).ok_or(Error::Invalid(
            "a title has 1 to 64 characters, one of them visible, and no control characters",
        ))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Client key: idempotency key of a call, 1 to 64 characters, no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientKey(String);

impl ClientKey {
    /// Parses a client key.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a wrong length or a control character.
    pub(crate) fn parse(text: String) -> Result<Self, Error> {
        let is_valid = has_length(&text, KEY_MAX) && !text.chars().any(char::is_control);
        is_valid
            .then_some(Self(text))
            .ok_or(Error::Invalid("a clientKey has 1 to 64 characters, none of them control characters"))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Replaces `\r\n` and `\r` with `\n`.
fn with_line_feeds(text: String) -> String {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text }
}

/// Returns true for a text of 1 to `max` characters. Reads at most `max + 1` characters.
fn has_length(text: &str, max: usize) -> bool {
    !text.is_empty() && text.chars().nth(max).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_1_to_4000_characters_on_any_number_of_lines() {
        for good in ["a", "zwei\nZeilen\tund 👋", &"é".repeat(4_000)] {
            let text = Text::parse(good.to_owned()).unwrap();
            assert_eq!(text.as_str(), good);
            assert_eq!(format!("{text:?}"), format!("Text({} bytes)", good.len()));
        }
        for bad in ["", "nul\0", "bell\u{7}", "del\u{7f}", "nel\u{85}", &"é".repeat(4_001)] {
            assert!(matches!(Text::parse(bad.to_owned()), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn line_ends_of_a_text_become_line_feeds() {
        for (given, stored) in [
            ("one\r\ntwo", "one\ntwo"),
            ("one\rtwo\r", "one\ntwo\n"),
            ("one\r\r\n\n\rtwo", "one\n\n\n\ntwo"),
            ("\r\none", "\none"),
        ] {
            let text = Text::parse(given.to_owned()).unwrap();
            assert_eq!(text.as_str(), stored, "{given:?}");
            assert_eq!(text.hash(), Text::parse(stored.to_owned()).unwrap().hash());
        }
        let lines = "a\r\n".repeat(2_000);
        assert_eq!(Text::parse(lines.clone()).unwrap().as_str(), lines.replace('\r', ""), "4,000 characters");
        assert!(matches!(Text::parse(format!("{lines}\r\n")), Err(Error::Invalid(_))), "4,001 characters");
    }

    #[test]
    fn texts_and_titles_have_a_visible_character() {
        for bad in [" ", "\u{a0}\u{3000}", "\u{200b}", "\u{200d}\u{fe0f}", "\u{2800}", "\u{3164}", "\u{feff}"]
        {
            assert!(matches!(Text::parse(bad.to_owned()), Err(Error::Invalid(_))), "{bad:?}");
            assert!(matches!(Title::parse(bad.to_owned()), Err(Error::Invalid(_))), "{bad:?}");
        }
        for bad in ["\n", "\t", "\r\n", "\r", " \n\u{200b}\t\u{e0100}", "\u{202e}\u{202c}"] {
            assert!(matches!(Text::parse(bad.to_owned()), Err(Error::Invalid(_))), "{bad:?}");
        }
        for good in ["❤\u{fe0f}", "👩\u{200d}👧", "e\u{301}", "שלום", " a ", "\u{200f}א"] {
            assert_eq!(Text::parse(good.to_owned()).unwrap().as_str(), good);
            assert_eq!(Title::parse(good.to_owned()).unwrap().as_str(), good);
        }
    }

    #[test]
    fn bidirectional_controls_are_refused_in_titles_only() {
        for char in ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}') {
            let text = format!("a{char}b");
            assert_eq!(Text::parse(text.clone()).unwrap().as_str(), text);
            assert!(matches!(Title::parse(text), Err(Error::Invalid(_))), "{char:?}");
        }
    }

    #[test]
    fn titles_and_client_keys_have_1_to_64_characters_on_one_line() {
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
    fn different_texts_have_different_hashes() {
        let hash = |text: &str| Text::parse(text.to_owned()).unwrap().hash();
        assert_eq!(hash("a"), hash("a"));
        assert_ne!(hash("a"), hash("b"));
    }
}
