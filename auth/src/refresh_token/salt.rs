//! Salt: 16 random bytes that only the database holds. Knowing a token is not enough to derive its
//! successor.

use std::fmt;

const LENGTH: usize = 16;

/// Salt of one rotation. `Debug` redacts it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Salt([u8; LENGTH]);

impl Salt {
    /// Generates a salt.
    pub(crate) fn random() -> Self {
        Self(super::random_bytes())
    }

    /// Wraps a salt from the database. Returns `None` if the length is not 16.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Returns the bytes to store.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(…)")
    }
}
