//! Texts of passwords: [`Password`], which is valid, and [`EnteredPassword`], which need not be. Passwords
//! are normalised by the profile OpaqueString of RFC 8265, so that the same text matches from every
//! keyboard and operating system.

use std::fmt;

use precis_profiles::{OpaqueString, precis_core::profile::Profile};

use crate::Error;

const LENGTH_MIN: usize = 8;
const LENGTH_MAX: usize = 256;
/// Longest text that is normalised, in characters. Normalisation merges at most four characters into one,
/// so a longer text exceeds [`LENGTH_MAX`] in any form. The context rules of PRECIS take quadratic time.
const TEXT_MAX: usize = 4 * LENGTH_MAX;

/// Plain-text password: 8 to 256 characters, no control characters. `Debug` redacts it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(String);

impl Password {
    /// Parses a password and normalises it (RFC 8265, section 4.2): other spaces become U+0020, then
    /// Unicode NFC. Case and width are kept.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the length of the normalised form is outside the limits, or for a control
    /// character or another code point outside the FreeformClass of RFC 8264.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        Self::normalise(text).ok_or(Error::Invalid(
            "a password has 8 to 256 characters, none of them control characters or invisible",
        ))
    }

    fn normalise(text: &str) -> Option<Self> {
        if text.chars().nth(TEXT_MAX).is_some() {
            return None;
        }
        let normalised = OpaqueString::new().enforce(text).ok()?;
        has_valid_length(&normalised).then(|| Self(normalised.into_owned()))
    }

    /// Parses a text by the rules from before passwords were normalised.
    pub(crate) fn unnormalised(text: String) -> Option<Self> {
        let is_valid = has_valid_length(&text) && !text.chars().any(char::is_control);
        is_valid.then_some(Self(text))
    }

    /// Returns a password that matches no hash, for a verification that must fail after the usual work.
    pub(crate) fn dummy() -> Self {
        Self(String::new())
    }

    /// Returns the text, to be hashed.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

fn has_valid_length(text: &str) -> bool {
    text.chars().nth(LENGTH_MIN - 1).is_some() && text.chars().nth(LENGTH_MAX).is_none()
}

/// Text entered to prove knowledge of a password. A malformed text matches no hash, after the usual work.
#[derive(Debug)]
pub(crate) struct EnteredPassword {
    normalised: Option<Password>,
    /// The text as entered if it differs from the normalised form. Hashes from before passwords were
    /// normalised match only this form.
    unnormalised: Option<Password>,
}

impl EnteredPassword {
    /// Parses both forms of a text.
    pub(crate) fn parse(text: String) -> Self {
        let normalised = Password::parse(&text).ok();
        let unnormalised = Password::unnormalised(text).filter(|text| normalised.as_ref() != Some(text));
        Self { normalised, unnormalised }
    }

    pub(super) fn normalised(&self) -> Option<Password> {
        self.normalised.clone()
    }

    pub(super) fn unnormalised(&self) -> Option<Password> {
        self.unnormalised.clone()
    }

    /// Returns the normalised form, or `None` if the text has none that is a valid password.
    pub(crate) fn into_normalised(self) -> Option<Password> {
        self.normalised
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::parse(text).unwrap()
    }

    #[test]
    fn a_password_has_8_to_256_characters_without_control_characters() {
        for good in ["12345678", "correct horse 🐎", &"ß".repeat(256)] {
            assert!(Password::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "1234567", "🐎🐎🐎🐎🐎🐎🐎", "1234567\0", "12345678\n", &"ß".repeat(257)]
        {
            assert!(matches!(Password::parse(bad), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_password_is_normalised_by_opaque_string() {
        for (text, normalised) in [
            ("correct horse battery staple", "correct horse battery staple"),
            ("Correct Horse Battery Staple", "Correct Horse Battery Staple"),
            ("Jack of ♦s", "Jack of ♦s"),
            ("foo\u{1680}bar baz", "foo bar baz"),
            ("a\u{a0}b\u{2003}c\u{3000}de", "a b c de"),
            ("caf\u{65}\u{301} noir", "caf\u{e9} noir"),
            ("\u{212b}ngstrom", "\u{c5}ngstrom"),
            ("ｆｕｌｌｗｉｄｔｈ", "ｆｕｌｌｗｉｄｔｈ"),
            (" 123456 ", " 123456 "),
        ] {
            assert_eq!(password(text).0, normalised, "{text:?}");
        }
        for bad in ["my cat is a \tby", "1234567\u{200b}8", "1234567\u{202e}8", "1234567\u{85}8"] {
            assert!(matches!(Password::parse(bad), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn the_length_of_a_password_is_counted_after_normalisation() {
        let decomposed = |count: usize| "e\u{301}".repeat(count);
        assert!(Password::parse(&decomposed(7)).is_err(), "14 characters become 7");
        assert_eq!(password(&decomposed(8)).0, "é".repeat(8));
        assert_eq!(password(&decomposed(256)).0, "é".repeat(256));
        assert!(Password::parse(&decomposed(257)).is_err());
        let four_to_one = "\u{3b1}\u{313}\u{300}\u{345}".repeat(256);
        assert_eq!(password(&four_to_one).0, "\u{1f82}".repeat(256));
        assert!(Password::parse(&"\u{661}".repeat(1_000_000)).is_err(), "refused without quadratic work");
    }
}
