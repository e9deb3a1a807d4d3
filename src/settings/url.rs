//! URL of an engine. It may contain a password, so its `Debug` output hides it, as do logs and `--help`.

use std::{convert::Infallible, fmt, ops::Deref, str::FromStr};

/// URL that may contain a password.
#[derive(Clone)]
pub struct Url(String);

impl FromStr for Url {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl Deref for Url {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Url(..)")
    }
}
