//! Access token of a client: from the handshake's header, the payload of `connection_init`, or the
//! extensions of an operation. The authenticator verifies it.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::fmt;

use http::{HeaderMap, header};
use serde_json::{Map, Value};

/// Name of a token's field, in any letter case.
const AUTHORIZATION: &str = "authorization";
/// Other name of a token's field, in exactly this letter case.
const AUTH_TOKEN: &str = "authToken";

/// Bearer token. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Parses a header's value or a payload's field: a token with or without `Bearer`. Returns `None` for the
    /// empty text, which clients send before a user signs in. A text that holds no token, such as `Bearer `,
    /// is an invalid token.
    ///
    /// A value with another scheme is kept whole, and the authenticator rejects it.
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let text = text.trim();
        // Not `access::bearer_token`: that one ends the scheme at a space only. Clients of the payload
        // may send any white space.
        let token = match text.split_once(char::is_whitespace) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim_start(),
            _ => text,
        };
        let is_blank = token.eq_ignore_ascii_case("bearer");
        Some(if is_blank { Self::invalid() } else { Self(token.to_owned()) })
    }

    /// Parses the authorization header. A header that is not text and a repeated header give an invalid
    /// token, so the client is rejected instead of being treated as anonymous.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        match (values.next()?.to_str(), values.next()) {
            (Ok(text), None) => Self::parse(text),
            _ => Some(Self::invalid()),
        }
    }

    /// Finds the token in the payload of `connection_init` or the extensions of an operation:
    /// `authorization` in any letter case, otherwise `authToken`. A value that is not a string is an
    /// invalid token.
    pub fn from_payload(payload: &Map<String, Value>) -> Option<Self> {
        let authorization = payload.iter().find(|(name, _)| name.eq_ignore_ascii_case(AUTHORIZATION));
        let value = authorization.map(|(_, value)| value).or_else(|| payload.get(AUTH_TOKEN))?;
        match value {
            Value::Null => None,
            Value::String(text) => Self::parse(text),
            _ => Some(Self::invalid()),
        }
    }

    /// Returns true for the name of a field that [`Token::from_payload`] reads.
    pub fn is_field_name(name: &str) -> bool {
        name.eq_ignore_ascii_case(AUTHORIZATION) || name == AUTH_TOKEN
    }

    /// Returns a token that no authenticator accepts.
    fn invalid() -> Self {
        Self(String::new())
    }

    /// Returns the token without `Bearer`.
    pub fn expose(&self) -> &str {
        &self.0
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
    fn a_header_that_is_not_text_or_is_repeated_is_an_invalid_token() {
        let parse = |values: &[&[u8]]| {
            let header = |bytes: &&[u8]| {
                (header::AUTHORIZATION, header::HeaderValue::from_bytes(bytes).expect("valid header"))
            };
            Token::from_headers(&values.iter().map(header).collect())
        };
        let invalid = Some(Token::invalid());
        assert_eq!(parse(&[b"Bearer abc"]).as_ref().map(Token::expose), Some("abc"));
        assert_eq!(parse(&[b"Bearer \xfc"]), invalid, "rejected, not anonymous");
        assert_eq!(parse(&[b"Bearer abc", b"Bearer abc"]), invalid, "two tokens are ambiguous");
        assert_eq!((parse(&[b""]), parse(&[])), (None, None));
    }
}
