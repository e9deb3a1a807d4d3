//! Service token: authenticates a call from one service to another that is not made on behalf of a user.
//! It consists of 32 random bytes in a file that every service reads.

use std::{fmt, path::Path};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq;

use crate::{Error, secret_file};

/// Shared secret of the services. `Debug` does not show it.
#[derive(Clone)]
pub struct ServiceToken(String);

impl ServiceToken {
    /// Generates a random token without writing it to a file.
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the system provides random bytes");
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads the token from a file.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read, [`Error::Exposed`] if other users have access to it,
    /// and [`Error::Malformed`] if it does not contain 32 bytes as base64url text.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::parse(&secret_file::read(path)?, path)
    }

    /// Reads the token from a file, or creates the file with a new token and mode 0600.
    ///
    /// # Errors
    /// As [`ServiceToken::load`], and [`Error::File`] if the file cannot be created.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        Self::parse(&secret_file::read_or_create(path, || Self::generate().0 + "\n")?, path)
    }

    /// Returns true if `text` is the token. Compares in constant time for texts of the same length.
    pub fn matches(&self, text: &str) -> bool {
        self.0.as_bytes().ct_eq(text.as_bytes()).into()
    }

    /// Returns the value of the authorization header, `Bearer …`.
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
    fn a_token_is_created_once_and_then_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("service-token");
        assert!(ServiceToken::load(&path).is_err());
        let token = ServiceToken::load_or_create(&path).expect("created");
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
        let text = header.strip_prefix("Bearer ").expect("a bearer header");
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
    fn a_file_without_a_token_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("service-token");
        let short = URL_SAFE_NO_PAD.encode([7; 31]);
        let long = URL_SAFE_NO_PAD.encode([7; 33]);
        for bad in ["", "\n", "password", &short, &long, &format!("{}=", URL_SAFE_NO_PAD.encode([7; 32]))] {
            secret_file::replace(&path, bad).expect("written");
            let error = ServiceToken::load(&path).expect_err("refused").to_string();
            assert!(error.contains("service-token") && error.contains("32 bytes"), "{error}");
        }
    }
}
