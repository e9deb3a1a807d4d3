//! Parsers of requests: JSON bodies and query strings.
//!
//! Each field is parsed separately, so the error names the field of the wrong type.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::fmt::Display;

use async_graphql::Variables;
use axum::extract::Query;
use http::Uri;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    error::{Code, Error},
    operation::coercion::VARIABLES_MAX_BYTES,
    operation::request::{OperationRequest, unrepresentable},
};

/// Most operations in a batch.
pub const BATCH_MAX: usize = 10;

/// Deepest nesting of lists and objects in a body, the recursion limit of the JSON parser.
const NESTING_MAX: usize = 128;

/// Parsed body of a request.
#[derive(Debug)]
pub enum RequestBody {
    /// One operation.
    Single(OperationRequest),
    /// Several operations. Their results are a list in the same order.
    Batch(Vec<OperationRequest>),
}

/// Unparsed fields of a request. Unknown fields are ignored, as the specification requires.
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

/// Parses a body.
///
/// # Errors
/// BAD_REQUEST if the body is malformed, LIMIT_EXCEEDED if the batch or the variables are too large.
pub fn parse(body: &[u8]) -> Result<RequestBody, Error> {
    if nests_too_deep(body) {
        return Err(bad_request(format!(
            "lists and objects in the body are nested more than {NESTING_MAX} levels deep"
        )));
    }
    let raw: &RawValue = serde_json::from_slice(body)
        .map_err(|error| bad_request(format!("the body is not JSON: {error}")))?;
    match raw.get().as_bytes().first() {
        Some(b'{') => Ok(RequestBody::Single(operation(raw)?)),
        Some(b'[') => {
            let list: Vec<&RawValue> = parse_json(raw, "the body", "a list of requests")?;
            match list.len() {
                0 => Err(bad_request("the batch is empty")),
                1..=BATCH_MAX => {
                    list.into_iter().map(operation).collect::<Result<_, _>>().map(RequestBody::Batch)
                }
                count => Err(limit_exceeded(format!(
                    "the batch has {count} operations, the maximum is {BATCH_MAX}"
                ))),
            }
        }
        _ => Err(bad_request("the body must be an object, or a list of objects")),
    }
}

/// Returns true if lists and objects are nested more than [`NESTING_MAX`] levels deep. Checked before
/// parsing, because the parser skips over the content of a [`RawValue`] at any depth.
fn nests_too_deep(body: &[u8]) -> bool {
    let mut depth = 0_usize;
    let mut quoted = false;
    let mut escaped = false;
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
        return Err(bad_request("a request must be an object"));
    }
    let fields: Fields =
        serde_json::from_str(raw.get()).map_err(|error| bad_request(format!("not a request: {error}")))?;
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
        return Err(limit_exceeded(format!("`variables` are larger than {} kB", VARIABLES_MAX_BYTES / 1024)));
    }
    Ok(optional(raw, "`variables`", "an object")?.unwrap_or_default())
}

fn optional<T: DeserializeOwned>(raw: Option<&RawValue>, name: &str, kind: &str) -> Result<Option<T>, Error> {
    raw.filter(|raw| raw.get() != "null").map(|raw| parse_json(raw, name, kind)).transpose()
}

fn parse_json<'a, T: Deserialize<'a>>(raw: &'a RawValue, name: &str, kind: &str) -> Result<T, Error> {
    serde_json::from_str(raw.get()).map_err(|error| match unrepresentable(&error) {
        Some(reason) => bad_request(format!("{name} cannot be read: {reason}")),
        None => bad_request(format!("{name} must be {kind}")),
    })
}

/// Fields of a query string. An empty field is an absent one.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parameters {
    query: Option<String>,
    document_id: Option<String>,
    operation_name: Option<String>,
    variables: Option<String>,
    extensions: Option<String>,
}

/// Parses a query string.
///
/// # Errors
/// BAD_REQUEST if it is malformed, LIMIT_EXCEEDED if the variables are too large.
pub fn parse_query(text: &str) -> Result<OperationRequest, Error> {
    let uri: Uri = format!("/?{text}").parse().map_err(|_| bad_request("not a query string"))?;
    let Query(parameters) =
        Query::<Parameters>::try_from_uri(&uri).map_err(|error| bad_request(error.body_text()))?;
    let non_empty = |text: Option<String>| text.filter(|text| !text.is_empty());
    let json = |text: Option<String>, name: &str| {
        let raw = non_empty(text).map(RawValue::from_string).transpose();
        raw.map_err(|_| bad_request(format!("`{name}` is not JSON")))
    };
    let extensions = json(parameters.extensions, "extensions")?;
    Ok(OperationRequest {
        query: non_empty(parameters.query),
        document_id: non_empty(parameters.document_id),
        operation_name: non_empty(parameters.operation_name),
        variables: variables(json(parameters.variables, "variables")?.as_deref())?,
        extensions: optional(extensions.as_deref(), "`extensions`", "an object")?.unwrap_or_default(),
    })
}

pub(super) fn bad_request(message: impl Display) -> Error {
    Error::new(Code::BadRequest, message.to_string())
}

fn limit_exceeded(message: String) -> Error {
    Error::new(Code::LimitExceeded, message)
}

#[cfg(test)]
mod tests {
    use async_graphql::value;

    use super::*;

    fn parse_single(body: &str) -> OperationRequest {
        match parse(body.as_bytes()) {
            Ok(RequestBody::Single(incoming)) => incoming,
            other => panic!("{body}: {other:?}"),
        }
    }

    #[track_caller]
    fn error_of(body: &str) -> (Code, String) {
        let error = parse(body.as_bytes()).expect_err(body);
        (error.code(), error.message().to_owned())
    }

    #[test]
    fn all_fields_of_a_request_are_parsed() {
        let body = r#"{"query": "{ a\n}", "operationName": "N", "variables": {"x": [1]},
            "extensions": {"y": 2}, "z": 3}"#;
        let incoming = parse_single(body);
        assert_eq!(
            (incoming.query.as_deref(), incoming.operation_name.as_deref()),
            (Some("{ a\n}"), Some("N"))
        );
        assert_eq!(incoming.variables.into_value(), value!({ "x": [1] }));
        assert_eq!(incoming.extensions["y"], 2);
        let bare = parse_single(
            r#"{"query": "{ a }", "operationName": null, "variables": null, "extensions": null}"#,
        );
        assert!(bare.operation_name.is_none() && bare.variables.is_empty() && bare.extensions.is_empty());
        let named = parse_single(r#"{"query": null, "documentId": "x"}"#);
        assert_eq!((named.query, named.document_id.as_deref()), (None, Some("x")));
    }

    #[test]
    fn malformed_bodies_have_specific_errors() {
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
            (
                r#"{"query": "a", "variables": {"x": "\ud83d"}}"#,
                "`variables` cannot be read: a string has half of a surrogate pair",
            ),
            (
                r#"{"query": "a", "variables": {"x": 1e400}}"#,
                "`variables` cannot be read: a number is out of range",
            ),
            ("[]", "the batch is empty"),
            ("[1]", "a request must be an object"),
            (r#"[{"query": "a"}, []]"#, "a request must be an object"),
        ] {
            assert_eq!(error_of(body), (Code::BadRequest, message.to_owned()), "{body}");
        }
        for body in ["", "{", "{ a }", "\u{feff}{}", r#"{"query": "a", "query": "b"}"#, "[{},]"] {
            assert_eq!(error_of(body).0, Code::BadRequest, "{body}");
        }
        assert_eq!(
            parse(b"{\"query\": \"\xff\"}").expect_err("a body that is not UTF-8").code(),
            Code::BadRequest
        );
        let deep = format!(
            r#"{{"query": "a", "variables": {{"x": {}{}}}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert_eq!(
            error_of(&deep),
            (
                Code::BadRequest,
                "lists and objects in the body are nested more than 128 levels deep".to_owned()
            )
        );
    }

    #[test]
    fn nesting_counts_brackets_outside_strings() {
        let nested = |depth: usize| {
            format!(r#"{{"query": "a", "z": {}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1))
        };
        parse_single(&nested(NESTING_MAX));
        assert_eq!(error_of(&nested(NESTING_MAX + 1)).0, Code::BadRequest);
        parse_single(&format!(
            r#"{{"query": "a \\\" {}", "z": [{}[]]}}"#,
            "{[".repeat(500),
            "[{}],".repeat(500)
        ));
    }

    #[test]
    fn batches_and_variables_have_limits() {
        let batch = |count: usize| format!("[{}]", vec![r#"{"query": "a"}"#; count].join(","));
        let largest = parse(batch(BATCH_MAX).as_bytes());
        assert!(matches!(largest, Ok(RequestBody::Batch(operations)) if operations.len() == BATCH_MAX));
        assert_eq!(error_of(&batch(BATCH_MAX + 1)).0, Code::LimitExceeded);
        let variables =
            |bytes: usize| format!(r#"{{"query": "a", "variables": {{"x":"{}"}}}}"#, "y".repeat(bytes - 8));
        parse_single(&variables(VARIABLES_MAX_BYTES));
        assert_eq!(error_of(&variables(VARIABLES_MAX_BYTES + 1)).0, Code::LimitExceeded);
    }

    #[test]
    fn a_query_string_has_the_fields_of_a_body() {
        let parsed =
            parse_query("query=%7B%20a%20%7D&operationName=N&variables=%7B%22x%22%3A1%7D&extensions=%7B%7D");
        let incoming = parsed.expect("valid query string");
        assert_eq!(
            (incoming.query.as_deref(), incoming.operation_name.as_deref()),
            (Some("{ a }"), Some("N"))
        );
        let named = parse_query("query=&documentId=x&extensions=%7B%22persistedQuery%22%3A%7B%7D%7D")
            .expect("valid query string");
        assert_eq!((named.query, named.document_id.as_deref()), (None, Some("x")));
        assert!(named.extensions.contains_key("persistedQuery"));
        assert_eq!(incoming.variables.into_value(), value!({ "x": 1 }));
        assert!(parse_query("query=a&variables=&operationName=").is_ok());
        for malformed in
            ["query=a&variables=1", "query=a&variables=%7B", "query=a&extensions=%5B%5D", "query=a&query=b"]
        {
            assert_eq!(parse_query(malformed).expect_err(malformed).code(), Code::BadRequest, "{malformed}");
        }
    }
}
