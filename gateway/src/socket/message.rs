//! The messages of both subprotocols, read from and written as text. The machine in [`super::protocol`] knows only what they
//! mean; which words a meaning has stands here alone.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::{
    borrow::Cow,
    fmt::{self, Write},
    sync::Arc,
};

use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::subprotocol::Subprotocol;

/// The longest id of an operation, in bytes. A UUID has 36.
const ID_MAX: usize = 256;
/// The names of a token, the first one in any letter case.
const AUTHORIZATION: &str = "authorization";
const AUTH_TOKEN: &str = "authToken";

/// What a client says.
#[derive(Debug)]
pub enum Incoming {
    /// The connection begins; the payload may hold a token.
    Init {
        /// The token, without `Bearer`.
        token: Option<Token>,
    },
    /// An operation begins.
    Subscribe {
        /// Chosen by the client, unique among its operations.
        id: Arc<str>,
        /// The operation.
        request: Box<Request>,
    },
    /// The client wants no more of an operation.
    Complete {
        /// The operation's id.
        id: Box<str>,
    },
    /// Are you there?
    Ping {
        /// To be given back.
        payload: Option<Box<RawValue>>,
    },
    /// I am here.
    Pong,
    /// The client goes.
    Terminate,
}

/// A bearer token; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token in a header's value or a payload's field, with or without `Bearer`. `None` where it is empty.
    pub fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        let bare = match text.split_once(char::is_whitespace) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim_start(),
            _ => text,
        };
        (!bare.is_empty() && !bare.eq_ignore_ascii_case("bearer")).then(|| Self(bare.to_owned()))
    }

    /// The token of the authorization header. One that no text can be read from is a token that does not hold, and so are
    /// two: nobody can say which of them is meant.
    pub fn of_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        match (values.next()?.to_str(), values.next()) {
            (Ok(text), None) => Self::read(text),
            _ => Some(Self(String::new())),
        }
    }

    /// The token alone.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// An operation, of the shape that GraphQL over HTTP has too. Debug does not show what may be a secret.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The document, unless it is only named.
    pub query: Option<String>,
    /// Its name.
    pub document_id: Option<String>,
    /// Which of the document's operations.
    pub operation_name: Option<String>,
    /// By name.
    pub variables: Option<Map<String, Value>>,
    /// By name.
    pub extensions: Option<Map<String, Value>>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("operation_name", &self.operation_name).finish_non_exhaustive()
    }
}

impl Request {
    /// Whether it sends or names a document at all.
    fn has_document(&self) -> bool {
        let named =
            self.extensions.as_ref().is_some_and(|extensions| extensions.contains_key("persistedQuery"));
        named || self.query.is_some() || self.document_id.is_some()
    }

    /// The newer token that its extensions hold, under the names that `connection_init` has for it. It is taken out: what
    /// goes further has no secret in it.
    pub fn take_token(&mut self) -> Option<Token> {
        let extensions = self.extensions.as_mut()?;
        let found = token(extensions);
        extensions.retain(|name, _| !is_token(name));
        found
    }
}

/// What the gateway says.
#[derive(Clone)]
pub enum Outgoing {
    /// The connection is acknowledged.
    Ack,
    /// It is not, and is closed: the old protocol says so before.
    Rejection {
        /// Why, for people.
        reason: Box<str>,
    },
    /// A result of an operation.
    Next {
        /// The operation's id.
        id: Arc<str>,
        /// The response, as JSON.
        payload: Arc<str>,
    },
    /// The operation was refused before it was executed, and is over.
    Error {
        /// The operation's id.
        id: Arc<str>,
        /// The errors, as a JSON array.
        errors: Arc<str>,
    },
    /// The operation is over.
    Complete {
        /// The operation's id.
        id: Arc<str>,
    },
    /// Are you there? Near the token's end it tells the seconds left.
    Ping {
        /// Seconds until the token expires.
        expires_in_s: Option<u64>,
    },
    /// I am here.
    Pong {
        /// What came with the ping.
        payload: Option<Box<RawValue>>,
    },
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

impl Incoming {
    /// Reads a text frame.
    ///
    /// # Errors
    /// With a reason for people where it is no message of this subprotocol.
    pub fn read(text: &str, subprotocol: Subprotocol) -> Result<Self, &'static str> {
        let message: Envelope<'_> = structure(text).ok_or("not a JSON object with a type")?;
        let payload = message.payload.filter(|payload| payload.get() != "null");
        match (subprotocol, &*message.r#type) {
            (_, "connection_init") => Ok(Self::Init { token: token(&object(payload)?) }),
            (Subprotocol::New, "subscribe") | (Subprotocol::Old, "start") => {
                let id = id(message.id)?;
                let payload = payload.ok_or("an operation needs a payload")?;
                let request = structure(payload.get())
                    .filter(Request::has_document)
                    .ok_or("the payload of an operation is not a GraphQL request")?;
                Ok(Self::Subscribe { id: id.into(), request: Box::new(request) })
            }
            (Subprotocol::New, "complete") | (Subprotocol::Old, "stop") => {
                Ok(Self::Complete { id: id(message.id)?.into() })
            }
            (Subprotocol::New, "ping") => {
                is_object(payload).map(|()| Self::Ping { payload: payload.map(RawValue::to_owned) })
            }
            (Subprotocol::New, "pong") => is_object(payload).map(|()| Self::Pong),
            (Subprotocol::Old, "connection_terminate") => Ok(Self::Terminate),
            _ => Err("unknown type"),
        }
    }
}

/// Reads an object's text. Serde would take an array of the members too.
fn structure<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    text.trim_start().starts_with('{').then(|| serde_json::from_str(text).ok()).flatten()
}

fn id(raw: Option<&RawValue>) -> Result<String, &'static str> {
    let raw = raw.ok_or("it needs an id")?;
    let id: String = serde_json::from_str(raw.get()).map_err(|_| "the id is not a string")?;
    match id.len() {
        0 => Err("the id is empty"),
        1..=ID_MAX => Ok(id),
        _ => Err("the id is longer than 256 bytes"),
    }
}

fn object(payload: Option<&RawValue>) -> Result<Map<String, Value>, &'static str> {
    payload.map_or_else(
        || Ok(Map::new()),
        |payload| serde_json::from_str(payload.get()).map_err(|_| "the payload is not an object"),
    )
}

/// It is JSON already: its first letter tells.
fn is_object(payload: Option<&RawValue>) -> Result<(), &'static str> {
    let is_object = payload.is_none_or(|payload| payload.get().starts_with('{'));
    is_object.then_some(()).ok_or("the payload is not an object")
}

fn is_token(name: &str) -> bool {
    name.eq_ignore_ascii_case(AUTHORIZATION) || name == AUTH_TOKEN
}

/// `authorization` in any letter case, else `authToken`.
fn token(payload: &Map<String, Value>) -> Option<Token> {
    let authorization = payload.iter().find(|(name, _)| name.eq_ignore_ascii_case(AUTHORIZATION));
    let value = authorization.map(|(_, value)| value).or_else(|| payload.get(AUTH_TOKEN))?;
    match value {
        Value::Null => None,
        Value::String(text) => Token::read(text),
        // Whatever it is meant to be, it is no token; the authenticator refuses it.
        _ => Some(Token(String::new())),
    }
}

impl fmt::Debug for Outgoing {
    /// What is answered may be a token or a text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Next { id, .. } => write!(f, "Next({id})"),
            Self::Error { id, .. } => write!(f, "Error({id})"),
            Self::Ack => f.write_str("Ack"),
            Self::Rejection { reason } => write!(f, "Rejection({reason})"),
            Self::Complete { id } => write!(f, "Complete({id})"),
            Self::Ping { expires_in_s } => write!(f, "Ping({expires_in_s:?})"),
            Self::Pong { .. } => f.write_str("Pong"),
        }
    }
}

impl Outgoing {
    /// The text frame, where the subprotocol has such a message.
    pub fn text(&self, subprotocol: Subprotocol) -> Option<String> {
        Some(match (self, subprotocol) {
            (Self::Ack, _) => r#"{"type":"connection_ack"}"#.to_owned(),
            (Self::Rejection { reason }, Subprotocol::Old) => {
                json!({ "type": "connection_error", "payload": { "message": reason } }).to_string()
            }
            (Self::Next { id, payload }, Subprotocol::New) => with_id("next", id, Some(payload)),
            (Self::Next { id, payload }, Subprotocol::Old) => with_id("data", id, Some(payload)),
            (Self::Error { id, errors }, Subprotocol::New) => with_id("error", id, Some(errors)),
            (Self::Error { id, errors }, Subprotocol::Old) => with_id("error", id, Some(&one_error(errors))),
            (Self::Complete { id }, _) => with_id("complete", id, None),
            (Self::Ping { expires_in_s: None }, Subprotocol::New) => r#"{"type":"ping"}"#.to_owned(),
            (Self::Ping { expires_in_s: None }, Subprotocol::Old) => r#"{"type":"ka"}"#.to_owned(),
            (Self::Ping { expires_in_s: Some(left_s) }, _) => {
                let kind = if subprotocol == Subprotocol::New { "ping" } else { "ka" };
                format!(r#"{{"type":"{kind}","payload":{{"expiresIn":{left_s}}}}}"#)
            }
            (Self::Pong { payload: None }, Subprotocol::New) => r#"{"type":"pong"}"#.to_owned(),
            (Self::Pong { payload: Some(payload) }, Subprotocol::New) => {
                format!(r#"{{"type":"pong","payload":{payload}}}"#)
            }
            (Self::Rejection { .. }, Subprotocol::New) | (Self::Pong { .. }, Subprotocol::Old) => {
                return None;
            }
        })
    }
}

/// Errors as the old protocol has them: one object with a message, the first of them; and because there may be more, all of
/// them in its `errors`, where its clients look first.
fn one_error(errors: &str) -> String {
    let all: Vec<Map<String, Value>> = serde_json::from_str(errors).unwrap_or_default();
    let mut first = all.first().cloned().unwrap_or_default();
    first.insert("errors".to_owned(), all.into());
    Value::Object(first).to_string()
}

fn with_id(kind: &str, id: &str, payload: Option<&str>) -> String {
    let payload_size = payload.map_or(0, str::len);
    let mut text = String::with_capacity(payload_size + id.len() + 48);
    let id = Value::from(id);
    write!(text, r#"{{"id":{id},"type":"{kind}""#).expect("a string takes every write");
    if let Some(payload) = payload {
        text.push_str(r#","payload":"#);
        text.push_str(payload);
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_old_words(text: &str) -> String {
        text.replace(r#""subscribe""#, r#""start""#).replace(r#""complete""#, r#""stop""#)
    }

    #[test]
    fn a_token_is_found_under_each_of_its_names() {
        for (payload, expected) in [
            (r#"{"authorization":"Bearer abc"}"#, Some("abc")),
            (r#"{"Authorization":"bearer abc"}"#, Some("abc")),
            (r#"{"AUTHORIZATION":"abc"}"#, Some("abc")),
            (r#"{"authToken":"abc"}"#, Some("abc")),
            (r#"{"authToken":"Bearer abc"}"#, Some("abc")),
            (r#"{"authToken":"x","authorization":"abc"}"#, Some("abc")),
            (r#"{"authorization":42}"#, Some("")),
            (r#"{"authorization":null}"#, None),
            (r#"{"authorization":""}"#, None),
            (r#"{"authorization":"Bearer "}"#, None),
            (r#"{"authtoken":"abc"}"#, None),
            ("{}", None),
        ] {
            let text = format!(r#"{{"type":"connection_init","payload":{payload}}}"#);
            for subprotocol in Subprotocol::ALL {
                let Ok(Incoming::Init { token }) = Incoming::read(&text, subprotocol) else {
                    panic!("{text}")
                };
                assert_eq!(token.as_ref().map(Token::expose), expected, "{payload}");
            }
        }
    }

    #[test]
    fn a_header_that_is_no_text_or_comes_twice_is_a_token_that_does_not_hold() {
        let read = |values: &[&[u8]]| {
            let value = |bytes: &&[u8]| {
                (header::AUTHORIZATION, header::HeaderValue::from_bytes(bytes).expect("a header"))
            };
            Token::of_headers(&values.iter().map(value).collect())
        };
        let refused = Some(Token(String::new()));
        assert_eq!(read(&[b"Bearer abc"]).as_ref().map(Token::expose), Some("abc"));
        assert_eq!(read(&[b"Bearer \xfc"]), refused, "refused, and not taken for nobody");
        assert_eq!(read(&[b"Bearer abc", b"Bearer abc"]), refused, "of two nobody knows which is meant");
        assert_eq!((read(&[b""]), read(&[])), (None, None));
    }

    #[test]
    fn what_is_no_message_is_told_why() {
        let long_id = format!(r#"{{"type":"complete","id":"{}"}}"#, "x".repeat(257));
        let deep = format!(r#"{{"type":"ping","payload":{}}}"#, "[".repeat(60_000));
        for text in [
            "",
            "hello",
            "null",
            "42",
            "[]",
            "{}",
            r#"{"type":7}"#,
            r#"{"type":"next","id":"1"}"#,
            r#"{"type":"subscribe"}"#,
            r#"{"type":"subscribe","id":"1"}"#,
            r#"{"type":"subscribe","id":"1","payload":null}"#,
            r#"{"type":"subscribe","id":"1","payload":{}}"#,
            r#"{"type":"subscribe","id":1,"payload":{"query":"{me{id}}"}}"#,
            r#"{"type":"subscribe","id":"","payload":{"query":"{me{id}}"}}"#,
            r#"{"type":"subscribe","payload":{"query":"{me{id}}"}}"#,
            r#"{"type":"subscribe","id":"1","payload":{"query":1}}"#,
            r#"{"type":"subscribe","id":"1","payload":{"extensions":{}}}"#,
            r#"{"type":"subscribe","id":"1","payload":{"documentId":1}}"#,
            r#"{"type":"subscribe","id":"1","payload":{"query":"{me{id}}","variables":[]}}"#,
            r#"{"type":"subscribe","id":"1","payload":{"query":"{me{id}}","operationName":1}}"#,
            r#"{"type":"subscribe","id":"1","payload":{"query":"{me{id}}","extensions":"x"}}"#,
            r#"{"type":"subscribe","id":"1","payload":["{me{id}}",null,null,null]}"#,
            r#"["ping",null,null]"#,
            r#"{"type":"complete"}"#,
            r#"{"type":"connection_init","payload":"token"}"#,
            r#"{"type":"ping","payload":[]}"#,
            r#"{"type":"pong","payload":1}"#,
            r#"{"type":"ping","type":"ping"}"#,
            r#"{"type":"ping"} x"#,
            &long_id,
            &deep,
        ] {
            for (subprotocol, text) in [(Subprotocol::New, text), (Subprotocol::Old, &in_old_words(text))] {
                let reason = Incoming::read(text, subprotocol).expect_err(text);
                assert!(reason.len() < 80, "{reason}");
            }
        }
    }

    #[test]
    fn null_payloads_and_unknown_members_are_let_pass() {
        for text in [
            r#"{"type":"connection_init"}"#,
            r#"{"type":"connection_init","payload":null}"#,
            r#"{"type":"ping","payload":null,"later":true}"#,
            r#"{"type":"\u0070ong"}"#,
            r#"{"type":"subscribe","id":"1","payload":{"query":"{me{id}}","variables":null,"operationName":null,"extensions":null}}"#,
        ] {
            assert!(Incoming::read(text, Subprotocol::New).is_ok(), "{text}");
            let is_known = !text.contains("ping") && !text.contains("ong");
            assert_eq!(Incoming::read(&in_old_words(text), Subprotocol::Old).is_ok(), is_known, "{text}");
        }
        let goodbye = Incoming::read(r#"{"type":"connection_terminate","payload":null}"#, Subprotocol::Old);
        assert!(matches!(goodbye, Ok(Incoming::Terminate)));
    }

    #[test]
    fn the_words_of_one_dialect_are_not_those_of_the_other() {
        let start = r#"{"type":"start","id":"1","payload":{"query":"{me{id}}"}}"#;
        for old in [start, r#"{"type":"stop","id":"1"}"#, r#"{"type":"connection_terminate"}"#] {
            assert!(Incoming::read(old, Subprotocol::Old).is_ok(), "{old}");
            assert!(Incoming::read(old, Subprotocol::New).is_err(), "{old}");
        }
        let subscribe = start.replace("start", "subscribe");
        for new in [&subscribe, r#"{"type":"complete","id":"1"}"#, r#"{"type":"ping"}"#, r#"{"type":"pong"}"#]
        {
            assert!(Incoming::read(new, Subprotocol::New).is_ok(), "{new}");
            assert!(Incoming::read(new, Subprotocol::Old).is_err(), "{new}");
        }
    }

    #[test]
    fn errors_of_the_old_protocol_are_one_object_that_names_them_all() {
        let errors = r#"[{"message":"a","extensions":{"code":"X"}},{"message":"b"}]"#;
        let outgoing = Outgoing::Error { id: "1".into(), errors: errors.into() };
        let text = outgoing.text(Subprotocol::Old).expect("a message");
        let expected = json!({
            "id": "1",
            "type": "error",
            "payload": {
                "message": "a",
                "extensions": { "code": "X" },
                "errors": [{ "message": "a", "extensions": { "code": "X" } }, { "message": "b" }],
            },
        });
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), expected);
    }

    #[test]
    fn ids_are_escaped_in_answers() {
        let id: Arc<str> = "a\"b\\\n".into();
        for outgoing in [
            Outgoing::Next { id: id.clone(), payload: r#"{"data":1}"#.into() },
            Outgoing::Error { id: id.clone(), errors: "[]".into() },
            Outgoing::Complete { id: id.clone() },
        ] {
            for subprotocol in Subprotocol::ALL {
                let text = outgoing.text(subprotocol).expect("a message");
                let value: Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(value["id"], *id);
            }
        }
    }

    #[test]
    fn a_token_never_shows_itself() {
        let text = r#"{"type":"connection_init","payload":{"authToken":"hidden"}}"#;
        let incoming = Incoming::read(text, Subprotocol::New);
        assert!(!format!("{incoming:?}").contains("hidden"));
        let text = r#"{"type":"subscribe","id":"1","payload":{"query":"hidden","variables":{"a":"hidden"}}}"#;
        let incoming = Incoming::read(text, Subprotocol::New).expect("a message");
        let outgoing = Outgoing::Next { id: "1".into(), payload: "hidden".into() };
        assert!(!format!("{incoming:?} {outgoing:?}").contains("hidden"));
    }
}
