//! Requests as they come in: JSON bodies and query strings, checked field by field, so that a wrong shape has a clear
//! answer.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::fmt::Display;

use async_graphql::Variables;
use axum::extract::Query;
use http::Uri;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    error::{Code, Error},
    operation::request::OperationRequest,
    operation::variables::VARIABLES_MAX_BYTES,
};

/// The most operations of a batch.
pub const BATCH_MAX: usize = 10;

/// Lists and objects inside each other in a body: what the parser of variables follows.
const NESTING_MAX: usize = 128;

/// What a body asks.
#[derive(Debug)]
pub enum Asked {
    /// One operation.
    One(OperationRequest),
    /// Several, answered as a list.
    Batch(Vec<OperationRequest>),
}

/// The fields of a request, unread. Others are ignored, as the specification has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    #[serde(borrow)]
    query: Option<&'a RawValue>,
    #[serde(borrow)]
    document_id: Option<&'a RawValue>,
    #[serde(borrow)]
    operation_name: Option<&'a RawValue>,
    #[serde(borrow)]
    variables: Option<&'a RawValue>,
    #[serde(borrow)]
    extensions: Option<&'a RawValue>,
}

/// Reads a body.
///
/// # Errors
/// BAD_REQUEST for what has the wrong shape, LIMIT_EXCEEDED for a batch or variables over their bounds.
pub fn parse(body: &[u8]) -> Result<Asked, Error> {
    if nests_too_deep(body) {
        return Err(bad(format!("the body has more than {NESTING_MAX} lists and objects inside each other")));
    }
    let raw: &RawValue =
        serde_json::from_slice(body).map_err(|error| bad(format!("the body is not JSON: {error}")))?;
    match raw.get().as_bytes().first() {
        Some(b'{') => Ok(Asked::One(operation(raw)?)),
        Some(b'[') => {
            let list: Vec<&RawValue> = read(raw, "the body", "a list of requests")?;
            match list.len() {
                0 => Err(bad("the batch is empty")),
                1..=BATCH_MAX => Ok(Asked::Batch(list.into_iter().map(operation).collect::<Result<_, _>>()?)),
                count => Err(over(format!("a batch of {count} operations, at most {BATCH_MAX} are allowed"))),
            }
        }
        _ => Err(bad("the body must be an object, or a list of objects")),
    }
}

/// Found before anything is read, since what is not looked into is read at any depth.
fn nests_too_deep(body: &[u8]) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                if depth > NESTING_MAX {
                    return true;
                }
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

fn operation(raw: &RawValue) -> Result<OperationRequest, Error> {
    if !raw.get().starts_with('{') {
        return Err(bad("a request must be an object"));
    }
    let fields: Fields =
        serde_json::from_str(raw.get()).map_err(|error| bad(format!("not a request: {error}")))?;
    Ok(OperationRequest {
        query: optional(fields.query, "`query`", "a string")?,
        document_id: optional(fields.document_id, "`documentId`", "a string")?,
        operation_name: optional(fields.operation_name, "`operationName`", "a string")?,
        variables: variables(fields.variables)?,
        extensions: optional(fields.extensions, "`extensions`", "an object")?.unwrap_or_default(),
    })
}

fn variables(raw: Option<&RawValue>) -> Result<Variables, Error> {
    if raw.is_some_and(|raw| raw.get().len() > VARIABLES_MAX_BYTES) {
        return Err(over(format!("`variables` are larger than {} kB", VARIABLES_MAX_BYTES / 1024)));
    }
    Ok(optional(raw, "`variables`", "an object")?.unwrap_or_default())
}

fn optional<T: DeserializeOwned>(raw: Option<&RawValue>, name: &str, kind: &str) -> Result<Option<T>, Error> {
    raw.filter(|raw| raw.get() != "null").map(|raw| read(raw, name, kind)).transpose()
}

fn read<'a, T: Deserialize<'a>>(raw: &'a RawValue, name: &str, kind: &str) -> Result<T, Error> {
    serde_json::from_str(raw.get()).map_err(|_| bad(format!("{name} must be {kind}")))
}

/// The fields of a query string.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parameters {
    query: Option<String>,
    document_id: Option<String>,
    operation_name: Option<String>,
    variables: Option<String>,
    extensions: Option<String>,
}

/// Reads a query string.
///
/// # Errors
/// As [`parse`].
pub fn parse_query(text: &str) -> Result<OperationRequest, Error> {
    let uri: Uri = format!("/?{text}").parse().map_err(|_| bad("not a query string"))?;
    let Query(parameters) =
        Query::<Parameters>::try_from_uri(&uri).map_err(|error| bad(error.body_text()))?;
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let json = |text: Option<String>, name: &str| {
        let raw = filled(text).map(RawValue::from_string).transpose();
        raw.map_err(|_| bad(format!("`{name}` is not JSON")))
    };
    let extensions = json(parameters.extensions, "extensions")?;
    Ok(OperationRequest {
        query: filled(parameters.query),
        document_id: filled(parameters.document_id),
        operation_name: filled(parameters.operation_name),
        variables: variables(json(parameters.variables, "variables")?.as_deref())?,
        extensions: optional(extensions.as_deref(), "`extensions`", "an object")?.unwrap_or_default(),
    })
}

fn bad(message: impl Display) -> Error {
    Error::new(Code::BadRequest, message.to_string())
}

fn over(message: String) -> Error {
    Error::new(Code::LimitExceeded, message)
}

#[cfg(test)]
mod tests {
    use async_graphql::value;

    use super::*;

    fn one(body: &str) -> OperationRequest {
        match parse(body.as_bytes()) {
            Ok(Asked::One(incoming)) => incoming,
            other => panic!("{body}: {other:?}"),
        }
    }

    #[track_caller]
    fn refused(body: &str) -> (Code, String) {
        let error = parse(body.as_bytes()).expect_err(body);
        (error.code(), error.message().to_owned())
    }

    #[test]
    fn a_request_is_read_whole() {
        let body = r#"{"query": "{ a\n}", "operationName": "N", "variables": {"x": [1]}, "extensions": {"y": 2}, "z": 3}"#;
        let incoming = one(body);
        assert_eq!(
            (incoming.query.as_deref(), incoming.operation_name.as_deref()),
            (Some("{ a\n}"), Some("N"))
        );
        assert_eq!(incoming.variables.into_value(), value!({ "x": [1] }));
        assert_eq!(incoming.extensions["y"], 2);
        let bare = one(r#"{"query": "{ a }", "operationName": null, "variables": null, "extensions": null}"#);
        assert!(bare.operation_name.is_none() && bare.variables.is_empty() && bare.extensions.is_empty());
        let named = one(r#"{"query": null, "documentId": "x"}"#);
        assert_eq!((named.query, named.document_id.as_deref()), (None, Some("x")));
    }

    #[test]
    fn each_wrong_shape_has_its_own_answer() {
        for (body, message) in [
            ("1", "the body must be an object, or a list of objects"),
            ("null", "the body must be an object, or a list of objects"),
            ("\"{ a }\"", "the body must be an object, or a list of objects"),
            (r#"{"documentId": 1}"#, "`documentId` must be a string"),
            (r#"{"query": 1}"#, "`query` must be a string"),
            (r#"{"query": ["a"]}"#, "`query` must be a string"),
            (r#"{"query": "a", "operationName": 1}"#, "`operationName` must be a string"),
            (r#"{"query": "a", "variables": []}"#, "`variables` must be an object"),
            (r#"{"query": "a", "variables": "x"}"#, "`variables` must be an object"),
            (r#"{"query": "a", "extensions": []}"#, "`extensions` must be an object"),
            ("[]", "the batch is empty"),
            ("[1]", "a request must be an object"),
            (r#"[{"query": "a"}, []]"#, "a request must be an object"),
        ] {
            assert_eq!(refused(body), (Code::BadRequest, message.to_owned()), "{body}");
        }
        for body in ["", "{", "{ a }", "\u{feff}{}", r#"{"query": "a", "query": "b"}"#, "[{},]"] {
            assert_eq!(refused(body).0, Code::BadRequest, "{body}");
        }
        assert_eq!(parse(b"{\"query\": \"\xff\"}").expect_err("not UTF-8").code(), Code::BadRequest);
        let deep = format!(
            r#"{{"query": "a", "variables": {{"x": {}{}}}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert_eq!(
            refused(&deep),
            (Code::BadRequest, "the body has more than 128 lists and objects inside each other".to_owned())
        );
    }

    #[test]
    fn brackets_count_where_they_nest_and_not_in_texts() {
        let nested = |depth: usize| {
            format!(r#"{{"query": "a", "z": {}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1))
        };
        one(&nested(NESTING_MAX));
        assert_eq!(refused(&nested(NESTING_MAX + 1)).0, Code::BadRequest);
        one(&format!(r#"{{"query": "a \\\" {}", "z": [{}[]]}}"#, "{[".repeat(500), "[{}],".repeat(500)));
    }

    #[test]
    fn batches_and_variables_have_bounds() {
        let batch = |count: usize| format!("[{}]", vec![r#"{"query": "a"}"#; count].join(","));
        assert!(
            matches!(parse(batch(BATCH_MAX).as_bytes()), Ok(Asked::Batch(all)) if all.len() == BATCH_MAX)
        );
        assert_eq!(refused(&batch(BATCH_MAX + 1)).0, Code::LimitExceeded);
        let variables =
            |bytes: usize| format!(r#"{{"query": "a", "variables": {{"x":"{}"}}}}"#, "y".repeat(bytes - 8));
        one(&variables(VARIABLES_MAX_BYTES));
        assert_eq!(refused(&variables(VARIABLES_MAX_BYTES + 1)).0, Code::LimitExceeded);
    }

    #[test]
    fn a_query_string_is_read_alike() {
        let read =
            parse_query("query=%7B%20a%20%7D&operationName=N&variables=%7B%22x%22%3A1%7D&extensions=%7B%7D");
        let incoming = read.expect("read");
        assert_eq!(
            (incoming.query.as_deref(), incoming.operation_name.as_deref()),
            (Some("{ a }"), Some("N"))
        );
        let named =
            parse_query("query=&documentId=x&extensions=%7B%22persistedQuery%22%3A%7B%7D%7D").expect("read");
        assert_eq!((named.query, named.document_id.as_deref()), (None, Some("x")));
        assert!(named.extensions.contains_key("persistedQuery"));
        assert_eq!(incoming.variables.into_value(), value!({ "x": 1 }));
        assert!(parse_query("query=a&variables=&operationName=").is_ok());
        for bad in
            ["query=a&variables=1", "query=a&variables=%7B", "query=a&extensions=%5B%5D", "query=a&query=b"]
        {
            assert_eq!(parse_query(bad).expect_err(bad).code(), Code::BadRequest, "{bad}");
        }
    }
}
