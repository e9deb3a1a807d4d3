//! Where an engine is, as the settings have it: a URL that may hold a password, and shows it nowhere.

use std::{convert::Infallible, fmt, ops::Deref, str::FromStr};

/// Where an engine is. It may hold a password: Debug and `--help` do not show it.
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
