//! Versions of a user's counters and of a dialog's messages, in the form that clients see:
//! "epoch-number". A restore of the database raises the epoch, so that versions from before the restore
//! are recognised.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::{fmt, str::FromStr};

use proto::{counter, dialog};

/// A version. Ordered by epoch, then by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Increased by each restore of the database.
    pub epoch: i64,
    /// Increased by one with each change.
    pub number: i64,
}

/// Error: the text is not a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a version")]
pub struct InvalidVersion;

impl Version {
    /// Creates a version.
    pub const fn new(epoch: i64, number: i64) -> Self {
        Self { epoch, number }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

impl FromStr for Version {
    type Err = InvalidVersion;

    /// Parses the output of `Display`. Any other spelling is an error.
    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let (epoch, number) = text.split_once('-').ok_or(InvalidVersion)?;
        Ok(Self { epoch: digits(epoch)?, number: digits(number)? })
    }
}

/// Parses a number without sign, leading zeros or spaces, so that each version has exactly one spelling.
fn digits(text: &str) -> Result<i64, InvalidVersion> {
    let canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
    if !canonical {
        return Err(InvalidVersion);
    }
    text.parse().map_err(|_| InvalidVersion)
}

impl From<counter::Version> for Version {
    fn from(version: counter::Version) -> Self {
        Self::new(version.epoch, version.number)
    }
}

impl From<Version> for counter::Version {
    fn from(version: Version) -> Self {
        Self { epoch: version.epoch, number: version.number }
    }
}

impl From<dialog::Version> for Version {
    fn from(version: dialog::Version) -> Self {
        Self::new(version.epoch, version.number)
    }
}

impl From<Version> for dialog::Version {
    fn from(version: Version) -> Self {
        Self { epoch: version.epoch, number: version.number }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_parses_from_its_display_form() {
        for version in [Version::new(0, 0), Version::new(1, 17), Version::new(i64::MAX, i64::MAX)] {
            assert_eq!(version.to_string().parse(), Ok(version));
            assert_eq!(Version::from(counter::Version::from(version)), version);
            assert_eq!(Version::from(dialog::Version::from(version)), version);
        }
    }

    #[test]
    fn malformed_text_is_not_a_version() {
        for text in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "1--1",
            "01-1",
            "1-01",
            "+1-1",
            "1-2-3",
            " 1-1",
            "1-9223372036854775808",
            "a-b",
        ] {
            assert_eq!(text.parse::<Version>(), Err(InvalidVersion), "{text}");
        }
    }

    #[test]
    fn versions_are_ordered_by_epoch_first() {
        assert!(Version::new(1, 99) < Version::new(2, 0));
        assert!(Version::new(2, 0) < Version::new(2, 1));
    }
}
