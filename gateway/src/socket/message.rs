//! Messages of both subprotocols, parsed from text frames and written as text frames.
//!
//! Only this module knows the message types on the wire; the state machine ([`super::protocol`]) sees
//! one set of messages for both subprotocols.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::{
    borrow::Cow,
    fmt::{self, Write},
    sync::Arc,
};

use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{subprotocol::Subprotocol, token::Token};
use crate::operation::request::unrepresentable;

/// Maximum length of an operation's id, in bytes. A UUID has 36.
const ID_MAX: usize = 256;

/// Message of a client.
#[derive(Debug)]
pub enum Incoming {
    /// `connection_init`: the first message.
    Init {
        /// Token of the payload, without `Bearer`.
        token: Option<Token>,
    },
    /// `subscribe` or `start`: starts an operation.
    Subscribe {
        /// Id chosen by the client, unique among its running operations.
        id: Arc<str>,
        /// The operation, or why its values cannot be represented.
        request: Result<Box<Request>, &'static str>,
    },
    /// `complete` or `stop`: ends an operation.
    Complete {
        /// Id of the operation.
        id: Box<str>,
    },
    /// `ping`: requests a pong.
    Ping {
        /// Payload of the pong.
        payload: Option<Box<RawValue>>,
    },
    /// `pong`: answers a ping.
    Pong,
    /// `connection_terminate`: ends the connection.
    Terminate,
}

/// Operation of a client, in the shape of GraphQL over HTTP. `Debug` shows only the operation's name:
/// the rest may hold secrets.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Text of the document.
    pub query: Option<String>,
    /// Id of a trusted document.
    pub document_id: Option<String>,
    /// Name of the operation in the document.
    pub operation_name: Option<String>,
    /// Variables by name.
    pub variables: Option<Map<String, Value>>,
    /// Extensions by name.
    pub extensions: Option<Map<String, Value>>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("operation_name", &self.operation_name).finish_non_exhaustive()
    }
}

impl Request {
    /// Returns true if the request contains or names a document.
    fn has_document(&self) -> bool {
        let persisted =
            self.extensions.as_ref().is_some_and(|extensions| extensions.contains_key("persistedQuery"));
        persisted || self.query.is_some() || self.document_id.is_some()
    }

    /// Removes the token from the extensions and returns it. It has the same names as in
    /// `connection_init`. After this, the request contains no secret of the connection.
    pub fn take_token(&mut self) -> Option<Token> {
        let extensions = self.extensions.as_mut()?;
        let found = Token::from_payload(extensions);
        extensions.retain(|name, _| !Token::is_field_name(name));
        found
    }
}

/// Message of the gateway.
#[derive(Clone)]
pub enum Outgoing {
    /// `connection_ack`: acknowledges the connection.
    Ack,
    /// `connection_error`: precedes the close of a connection that is not acknowledged. `graphql-ws` only.
    ConnectionError {
        /// Reason, for developers.
        reason: Box<str>,
    },
    /// `next` or `data`: a result of an operation.
    Next {
        /// Id of the operation.
        id: Arc<str>,
        /// The response, as JSON.
        payload: Arc<str>,
    },
    /// `error`: the operation was rejected before its execution, and has ended.
    Error {
        /// Id of the operation.
        id: Arc<str>,
        /// The errors, as a JSON array.
        errors: Arc<str>,
    },
    /// `complete`: the operation has ended.
    Complete {
        /// Id of the operation.
        id: Arc<str>,
    },
    /// `ping` or `ka`: keeps the connection alive, or notifies the client before its token expires.
    Ping {
        /// Seconds until the token expires. `None` in a keep-alive message.
        expires_in_s: Option<u64>,
    },
    /// `pong`: answers a ping.
    Pong {
        /// Payload of the ping.
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
    /// Parses a text frame.
    ///
    /// # Errors
    /// The reason, for developers, if the text is not a message of this subprotocol.
    pub fn parse(text: &str, subprotocol: Subprotocol) -> Result<Self, &'static str> {
        let message: Envelope<'_> = parse_object(text).ok_or("not a JSON object with a type")?;
        let payload = message.payload.filter(|payload| payload.get() != "null");
        match (subprotocol, &*message.r#type) {
            (_, "connection_init") => Ok(Self::Init { token: Token::from_payload(&parse_payload(payload)?) }),
            (Subprotocol::GraphqlTransportWs, "subscribe") | (Subprotocol::GraphqlWs, "start") => {
                let id = parse_id(message.id)?;
                let payload = payload.ok_or("an operation needs a payload")?;
                Ok(Self::Subscribe { id: id.into(), request: parse_request(payload)? })
            }
            (Subprotocol::GraphqlTransportWs, "complete") | (Subprotocol::GraphqlWs, "stop") => {
                Ok(Self::Complete { id: parse_id(message.id)?.into() })
            }
            (Subprotocol::GraphqlTransportWs, "ping") => {
                check_object(payload).map(|()| Self::Ping { payload: payload.map(RawValue::to_owned) })
            }
            (Subprotocol::GraphqlTransportWs, "pong") => check_object(payload).map(|()| Self::Pong),
            (Subprotocol::GraphqlWs, "connection_terminate") => Ok(Self::Terminate),
            _ => Err("unknown type"),
        }
    }
}

/// Parses a JSON object. Serde alone would also accept an array of the members.
fn parse_object<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    text.trim_start().starts_with('{').then(|| serde_json::from_str(text).ok()).flatten()
}

/// Parses an operation. The outer error is that of a malformed message; the inner one that of a value which
/// is JSON but cannot be represented, and which fails only its operation.
fn parse_request(payload: &RawValue) -> Result<Result<Box<Request>, &'static str>, &'static str> {
    let malformed = "the payload of an operation is not a GraphQL request";
    if !payload.get().starts_with('{') {
        return Err(malformed);
    }
    match serde_json::from_str::<Request>(payload.get()) {
        Ok(request) if request.has_document() => Ok(Ok(Box::new(request))),
        Ok(_) => Err(malformed),
        Err(error) => unrepresentable(&error).map(Err).ok_or(malformed),
    }
}

fn parse_id(raw: Option<&RawValue>) -> Result<String, &'static str> {
    let raw = raw.ok_or("the id is missing")?;
    let id: String = serde_json::from_str(raw.get()).map_err(|_| "the id is not a string")?;
    match id.len() {
        0 => Err("the id is empty"),
        1..=ID_MAX => Ok(id),
        _ => Err("the id is longer than 256 bytes"),
    }
}

fn parse_payload(payload: Option<&RawValue>) -> Result<Map<String, Value>, &'static str> {
    payload.map_or_else(
        || Ok(Map::new()),
        |payload| serde_json::from_str(payload.get()).map_err(|_| "the payload is not an object"),
    )
}

/// Checks that a payload is an object. It is valid JSON already, so its first character decides.
fn check_object(payload: Option<&RawValue>) -> Result<(), &'static str> {
    let is_object = payload.is_none_or(|payload| payload.get().starts_with('{'));
    is_object.then_some(()).ok_or("the payload is not an object")
}

impl fmt::Debug for Outgoing {
    /// Omits payloads: they may hold tokens and message texts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Next { id, .. } => write!(f, "Next({id})"),
            Self::Error { id, .. } => write!(f, "Error({id})"),
            Self::Ack => f.write_str("Ack"),
            Self::ConnectionError { reason } => write!(f, "ConnectionError({reason})"),
            Self::Complete { id } => write!(f, "Complete({id})"),
            Self::Ping { expires_in_s } => write!(f, "Ping({expires_in_s:?})"),
            Self::Pong { .. } => f.write_str("Pong"),
        }
    }
}

impl Outgoing {
    /// Returns the text frame. `None` if the subprotocol has no such message.
    pub fn text(&self, subprotocol: Subprotocol) -> Option<String> {
        Some(match (self, subprotocol) {
            (Self::Ack, _) => r#"{"type":"connection_ack"}"#.to_owned(),
            (Self::ConnectionError { reason }, Subprotocol::GraphqlWs) => {
                json!({ "type": "connection_error", "payload": { "message": reason } }).to_string()
            }
            (Self::Next { id, payload }, Subprotocol::GraphqlTransportWs) => {
                message_with_id("next", id, Some(payload))
            }
            (Self::Next { id, payload }, Subprotocol::GraphqlWs) => {
                message_with_id("data", id, Some(payload))
            }
            (Self::Error { id, errors }, Subprotocol::GraphqlTransportWs) => {
                message_with_id("error", id, Some(errors))
            }
            (Self::Error { id, errors }, Subprotocol::GraphqlWs) => {
                message_with_id("error", id, Some(&graphql_ws_error(errors)))
            }
            (Self::Complete { id }, _) => message_with_id("complete", id, None),
            (Self::Ping { expires_in_s: None }, Subprotocol::GraphqlTransportWs) => {
                r#"{"type":"ping"}"#.to_owned()
            }
            (Self::Ping { expires_in_s: None }, Subprotocol::GraphqlWs) => r#"{"type":"ka"}"#.to_owned(),
            (Self::Ping { expires_in_s: Some(left_s) }, _) => {
                let kind = if subprotocol == Subprotocol::GraphqlTransportWs { "ping" } else { "ka" };
                format!(r#"{{"type":"{kind}","payload":{{"expiresIn":{left_s}}}}}"#)
            }
            (Self::Pong { payload: None }, Subprotocol::GraphqlTransportWs) => {
                r#"{"type":"pong"}"#.to_owned()
            }
            (Self::Pong { payload: Some(payload) }, Subprotocol::GraphqlTransportWs) => {
                format!(r#"{{"type":"pong","payload":{payload}}}"#)
            }
            (Self::ConnectionError { .. }, Subprotocol::GraphqlTransportWs)
            | (Self::Pong { .. }, Subprotocol::GraphqlWs) => {
                return None;
            }
        })
    }
}

/// Returns the error payload of `graphql-ws`: one object, the first error, with all errors in its member
/// `errors`. Clients of that subprotocol look at `errors` first.
fn graphql_ws_error(errors: &str) -> String {
    let all: Vec<Map<String, Value>> = serde_json::from_str(errors).unwrap_or_default();
    let mut first = all.first().cloned().unwrap_or_default();
    first.insert("errors".to_owned(), all.into());
    Value::Object(first).to_string()
}

fn message_with_id(kind: &str, id: &str, payload: Option<&str>) -> String {
    let payload_size = payload.map_or(0, str::len);
    let mut text = String::with_capacity(payload_size + id.len() + 48);
    let id = Value::from(id);
    write!(text, r#"{{"id":{id},"type":"{kind}""#).expect("writing to a string cannot fail");
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

    fn in_graphql_ws(text: &str) -> String {
        text.replace(r#""subscribe""#, r#""start""#).replace(r#""complete""#, r#""stop""#)
    }

    #[test]
    fn a_token_is_found_under_each_field_name() {
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
            (r#"{"authorization":"Bearer "}"#, Some("")),
            (r#"{"authorization":"bearer"}"#, Some("")),
            (r#"{"authorization":" "}"#, Some("")),
            (r#"{"authorization":"Bearer Bearer abc"}"#, Some("Bearer abc")),
            (r#"{"authtoken":"abc"}"#, None),
            ("{}", None),
        ] {
            let text = format!(r#"{{"type":"connection_init","payload":{payload}}}"#);
            for subprotocol in Subprotocol::ALL {
                let Ok(Incoming::Init { token }) = Incoming::parse(&text, subprotocol) else {
                    panic!("{text}")
                };
                assert_eq!(token.as_ref().map(Token::expose), expected, "{payload}");
            }
        }
    }

    #[test]
    fn every_malformed_message_has_a_reason() {
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
            for (subprotocol, text) in
                [(Subprotocol::GraphqlTransportWs, text), (Subprotocol::GraphqlWs, &in_graphql_ws(text))]
            {
                let reason = Incoming::parse(text, subprotocol).expect_err(text);
                assert!(reason.len() < 80, "{reason}");
            }
        }
    }

    #[test]
    fn a_value_that_cannot_be_represented_fails_only_its_operation() {
        for (value, reason) in
            [("1e400", "number"), (r#""\ud83d""#, "surrogate"), (r#""\udc00""#, "surrogate")]
        {
            let payload = format!(r#"{{"query":"{{me{{id}}}}","variables":{{"x":[{value}]}}}}"#);
            let text = format!(r#"{{"type":"subscribe","id":"1","payload":{payload}}}"#);
            let Ok(Incoming::Subscribe { id, request }) =
                Incoming::parse(&text, Subprotocol::GraphqlTransportWs)
            else {
                panic!("{text}")
            };
            assert!(request.expect_err("rejected").contains(reason) && &*id == "1", "{text}");
        }
    }

    #[test]
    fn null_payloads_and_unknown_members_are_accepted() {
        for text in [
            r#"{"type":"connection_init"}"#,
            r#"{"type":"connection_init","payload":null}"#,
            r#"{"type":"ping","payload":null,"later":true}"#,
            r#"{"type":"\u0070ong"}"#,
            concat!(
                r#"{"type":"subscribe","id":"1","payload":{"query":"{me{id}}","variables":null,"#,
                r#""operationName":null,"extensions":null}}"#,
            ),
        ] {
            assert!(Incoming::parse(text, Subprotocol::GraphqlTransportWs).is_ok(), "{text}");
            let is_known = !text.contains("ping") && !text.contains("ong");
            assert_eq!(
                Incoming::parse(&in_graphql_ws(text), Subprotocol::GraphqlWs).is_ok(),
                is_known,
                "{text}"
            );
        }
        let terminate =
            Incoming::parse(r#"{"type":"connection_terminate","payload":null}"#, Subprotocol::GraphqlWs);
        assert!(matches!(terminate, Ok(Incoming::Terminate)));
    }

    #[test]
    fn message_types_of_the_other_subprotocol_are_rejected() {
        let start = r#"{"type":"start","id":"1","payload":{"query":"{me{id}}"}}"#;
        for text in [start, r#"{"type":"stop","id":"1"}"#, r#"{"type":"connection_terminate"}"#] {
            assert!(Incoming::parse(text, Subprotocol::GraphqlWs).is_ok(), "{text}");
            assert!(Incoming::parse(text, Subprotocol::GraphqlTransportWs).is_err(), "{text}");
        }
        let subscribe = start.replace("start", "subscribe");
        for text in
            [&subscribe, r#"{"type":"complete","id":"1"}"#, r#"{"type":"ping"}"#, r#"{"type":"pong"}"#]
        {
            assert!(Incoming::parse(text, Subprotocol::GraphqlTransportWs).is_ok(), "{text}");
            assert!(Incoming::parse(text, Subprotocol::GraphqlWs).is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_payload_of_graphql_ws_is_one_object_with_all_errors() {
        let errors = r#"[{"message":"a","extensions":{"code":"X"}},{"message":"b"}]"#;
        let outgoing = Outgoing::Error { id: "1".into(), errors: errors.into() };
        let text = outgoing.text(Subprotocol::GraphqlWs).expect("a message");
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
    fn ids_are_escaped_in_outgoing_messages() {
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
    fn debug_output_shows_no_token_and_no_payload() {
        let text = r#"{"type":"connection_init","payload":{"authToken":"hidden"}}"#;
        let incoming = Incoming::parse(text, Subprotocol::GraphqlTransportWs);
        assert!(!format!("{incoming:?}").contains("hidden"));
        let text = r#"{"type":"subscribe","id":"1","payload":{"query":"hidden","variables":{"a":"hidden"}}}"#;
        let incoming = Incoming::parse(text, Subprotocol::GraphqlTransportWs).expect("a message");
        let outgoing = Outgoing::Next { id: "1".into(), payload: "hidden".into() };
        assert!(!format!("{incoming:?} {outgoing:?}").contains("hidden"));
    }
}
