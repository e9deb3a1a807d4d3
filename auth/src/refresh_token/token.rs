//! The token itself: 32 opaque bytes, base64url text for clients, SHA-256 hashes in the database.
//!
//! The first half is random and is the same in every token of a session, its family. The second half is
//! random in the first token of a session and is derived from the previous token and a salt in every
//! later one.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use super::Salt;
use crate::Error;

const HALF: usize = 16;

/// Refresh token. `Debug` redacts it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token([u8; 2 * HALF]);

impl Token {
    /// Generates the first token of a new session.
    pub(crate) fn random() -> Self {
        Self(super::random_bytes())
    }

    /// Parses the text form that clients send.
    ///
    /// # Errors
    /// [`Error::RefreshToken`] if the text is not unpadded base64url of 32 bytes.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let mut bytes = [0; 2 * HALF];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(length) if length == bytes.len() => Ok(Self(bytes)),
            _ => Err(Error::RefreshToken),
        }
    }

    /// Returns the text form for clients.
    pub(crate) fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Returns the hash that the database stores. Plain SHA-256 is sufficient: the input has 128 random
    /// bits.
    pub(crate) fn hash(&self) -> Vec<u8> {
        Sha256::digest(self.0).to_vec()
    }

    /// Returns the hash of the family, the half that all tokens of a session share.
    pub(crate) fn family_hash(&self) -> Vec<u8> {
        Sha256::digest(&self.0[..HALF]).to_vec()
    }

    /// Derives the next token of the family. Deterministic, so that a lost response can be repeated.
    pub(crate) fn successor(&self, salt: &Salt) -> Self {
        let derived = Sha256::new().chain_update(salt.bytes()).chain_update(self.0).finalize();
        let mut bytes = self.0;
        bytes[HALF..].copy_from_slice(&derived[..HALF]);
        Self(bytes)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_43_characters_of_base64url_are_a_token() {
        let token = Token::random();
        assert_eq!(Token::parse(&token.text()).unwrap(), token);
        assert_eq!(token.text().len(), 43);
        let padded = format!("{}=", token.text());
        let longer = format!("{}A", token.text());
        let trailing_bits = format!("{}B", "A".repeat(42));
        for bad in [
            "",
            "nonsense",
            "a\0",
            &token.text()[1..],
            &padded,
            &longer,
            &"é".repeat(43),
            &trailing_bits,
            &"A".repeat(5_000),
        ] {
            assert!(matches!(Token::parse(bad), Err(Error::RefreshToken)), "{bad:?}");
        }
    }

    #[test]
    fn a_successor_keeps_the_family_and_depends_on_token_and_salt() {
        let token = Token::random();
        let salt = Salt::random();
        let next = token.successor(&salt);
        assert_eq!(next, token.successor(&salt), "a lost response can be repeated");
        assert_eq!(next.family_hash(), token.family_hash());
        assert_ne!(next, token);
        assert_ne!(next, token.successor(&Salt::random()));
        let mut same_family = Token::random();
        same_family.0[..HALF].copy_from_slice(&token.0[..HALF]);
        assert_ne!(next, same_family.successor(&salt));
        assert_ne!(Token::random().family_hash(), token.family_hash());
    }

    #[test]
    fn debug_shows_neither_token_nor_salt() {
        assert_eq!(format!("{:?} {:?}", Token::random(), Salt::random()), "Token(…) Salt(…)");
    }
}
