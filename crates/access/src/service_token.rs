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
        f.write_str("ServiceToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_token_is_made_once_and_read_by_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("service-token");
        assert!(ServiceToken::load(&path).is_err());
        let token = ServiceToken::load_or_create(&path).expect("made");
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        for again in [ServiceToken::load_or_create(&path), ServiceToken::load(&path)] {
            assert_eq!(again.expect("read").header(), token.header());
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("changed");
        assert!(matches!(ServiceToken::load_or_create(&path), Err(Error::Exposed { mode: 0o640, .. })));
    }

    #[test]
    fn only_the_whole_token_matches() {
        let token = ServiceToken::generate();
        let header = token.header();
        let text = header.strip_prefix("Bearer ").expect("a bearer");
        assert_eq!(text.len(), 43);
        assert!(token.matches(text));
        let changed = text.replace(&text[..1], "~");
        for bad in
            ["", &text[..42], &header, &changed, &text.to_lowercase(), ServiceToken::generate().0.as_str()]
        {
            assert!(!token.matches(bad), "{bad}");
        }
        assert!(!format!("{token:?}").contains(text));
    }

    #[test]
    fn a_file_that_holds_something_else_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("service-token");
        let (short, long) = (URL_SAFE_NO_PAD.encode([7; 31]), URL_SAFE_NO_PAD.encode([7; 33]));
        for bad in ["", "\n", "password", &short, &long, &format!("{}=", URL_SAFE_NO_PAD.encode([7; 32]))] {
            secret_file::replace(&path, bad).expect("written");
            let error = ServiceToken::load(&path).expect_err("refused").to_string();
            assert!(error.contains("service-token") && error.contains("32 bytes"), "{error}");
        }
    }
}
