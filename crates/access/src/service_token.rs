//! The token that services show each other where no person calls: 32 random bytes in a file that all of them have.

use std::{fmt, path::Path};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq;

use crate::{Error, secret_file};

/// A shared secret, compared in constant time. Debug never shows it.
#[derive(Clone)]
pub struct ServiceToken(String);

impl ServiceToken {
    /// A new one, in no file.
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the system has randomness");
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads it from a file.
    ///
    /// # Errors
    /// Where the file is absent, open to others, or does not hold 32 bytes as base64url text.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::parse(&secret_file::read(path)?, path)
    }

    /// Reads it, or makes the file with a new one, mode 0600.
    ///
    /// # Errors
    /// As [`ServiceToken::load`], and where the file cannot be made.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        Self::parse(&secret_file::read_or_create(path, || Self::generate().0 + "\n")?, path)
    }

    /// Whether this text is the token. Takes as long for every text of one length.
    pub fn matches(&self, text: &str) -> bool {
        self.0.as_bytes().ct_eq(text.as_bytes()).into()
    }

    /// The value of the authorization header, `Bearer …`.
    pub fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let text = text.trim();
        match URL_SAFE_NO_PAD.decode(text) {
            Ok(bytes) if bytes.len() == 32 => Ok(Self(text.to_owned())),
            _ => Err(Error::Malformed {
                path: path.to_owned(),
                reason: "expected a service token: 32 bytes as base64url without padding".to_owned(),
            }),
        }
    }
}

impl fmt::Debug for ServiceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServiceToken(…)")
    }
}
