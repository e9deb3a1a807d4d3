//! User agent of a client: what its `User-Agent` header says, for the list of the user's sessions. Nothing
//! else depends on it.

use http::{HeaderMap, HeaderValue, header};

/// Longest part of a header that is passed on, in bytes: auth keeps 256 characters, of at most 4 bytes each.
const KEPT_MAX_BYTES: usize = 1024;

/// `User-Agent` header of a request. Cheap to clone: the text is decoded where it is needed, in a sign-in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserAgent(Option<HeaderValue>);

impl UserAgent {
    /// Finds the header. It shares the memory of the request's head.
    pub fn of(headers: &HeaderMap) -> Self {
        Self(headers.get(header::USER_AGENT).cloned())
    }

    /// Returns a copy with memory of its own, for a socket: it outlives the request by hours.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(self.0.as_ref().and_then(|value| HeaderValue::from_bytes(kept(value)).ok()))
    }

    /// Returns the text for auth, which cleans it and cuts it off; the empty text if there is no header.
    pub fn text(&self) -> String {
        let bytes = self.0.as_ref().map(kept).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }
}

fn kept(value: &HeaderValue) -> &[u8] {
    let bytes = value.as_bytes();
    bytes.get(..KEPT_MAX_BYTES).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user_agent(values: &[&[u8]]) -> UserAgent {
        let field = |bytes: &&[u8]| {
            (header::USER_AGENT, HeaderValue::from_bytes(bytes).expect("a valid header value"))
        };
        UserAgent::of(&values.iter().map(field).collect())
    }

    #[test]
    fn the_first_header_is_decoded_and_a_long_one_is_cut_off() {
        let long = "🐎".repeat(300);
        let cut = "🐎".repeat(256);
        for (values, text) in [
            (&[][..], ""),
            (&[&b"curl/8.5"[..]], "curl/8.5"),
            (&[&b"first"[..], b"second"], "first"),
            (&[&b"a\xffb"[..]], "a\u{fffd}b"),
            (&[long.as_bytes()], cut.as_str()),
        ] {
            let user_agent = user_agent(values);
            assert_eq!(user_agent.text(), text);
            assert_eq!(user_agent.detached().text(), text);
        }
    }
}
