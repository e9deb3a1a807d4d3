//! Device of a session: the name that the user gives it, and the user agent of its client. Both are shown to
//! the user in the list of sessions, and nothing else depends on them.

use visible_text::{is_bidi_control, is_label, is_visible};

use crate::Error;

/// Most characters of a name.
const NAME_MAX: usize = 64;
/// Most characters of a user agent. The rest is cut off.
const USER_AGENT_MAX: usize = 256;

/// Device of a session, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Device {
    pub name: Option<DeviceName>,
    pub user_agent: Option<UserAgent>,
}

impl Device {
    /// Parses the name that a user gives.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a malformed name.
    pub(crate) fn parse(name: Option<&str>, user_agent: Option<UserAgent>) -> Result<Self, Error> {
        Ok(Self { name: name.map(DeviceName::parse).transpose()?, user_agent })
    }
}

/// Name of a device: 1 to 64 characters, at least one of them visible. No control characters, which include
/// line breaks, and no bidirectional embeddings, overrides or isolates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceName(String);

impl DeviceName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a wrong length, for a name without a visible character, and for a control
    /// character, also a bidirectional one.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        is_label(text, NAME_MAX).then(|| Self(text.to_owned())).ok_or(Error::Invalid(
            "a deviceName has 1 to 64 characters, one of them visible, and no control characters",
        ))
    }

    /// Wraps a name from the database.
    pub(crate) fn from_stored(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// User agent of a client: at most 256 characters, at least one of them visible, and no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserAgent(String);

impl UserAgent {
    /// Cleans the text of a header: removes control characters, also bidirectional ones, and cuts off what
    /// is too long. Returns `None` if nothing visible is left.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let allowed = |char: &char| !char.is_control() && !is_bidi_control(*char);
        let kept: String = text.chars().filter(allowed).take(USER_AGENT_MAX).collect();
        is_visible(&kept).then_some(Self(kept))
    }

    /// Wraps a user agent from the database.
    pub(crate) fn from_stored(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_name_has_1_to_64_characters_and_one_of_them_is_visible() {
        for good in ["Ann's phone", "x", " x ", "李", &"🐎".repeat(64)] {
            assert_eq!(DeviceName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", " ", "\u{200b}", "a\0", "a\nb", "a\u{7f}", "a\u{85}", "a\u{202e}", &"🐎".repeat(65)]
        {
            assert!(matches!(DeviceName::parse(bad), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_user_agent_is_cleaned_and_cut_off_between_characters() {
        let long = "é🐎".repeat(200);
        let cut = "é🐎".repeat(128);
        for (text, kept) in [
            ("Mozilla/5.0 (X11; Linux)", Some("Mozilla/5.0 (X11; Linux)")),
            ("a\tb\r\nc\0\u{85}\u{202e}d\u{2069}", Some("abcd")),
            (&long, Some(cut.as_str())),
            (&"\u{1}".repeat(300), None),
            ("", None),
            (" \u{200b} ", None),
        ] {
            assert_eq!(UserAgent::parse(text).as_ref().map(UserAgent::as_str), kept, "{text:?}");
        }
    }
}
