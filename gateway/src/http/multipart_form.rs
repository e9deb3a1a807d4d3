//! Parser of bodies of the type `multipart/form-data`, after the GraphQL multipart request specification: the
//! part `operations` has the JSON of an ordinary body, the part `map` binds files to variables.
//!
//! axum splits the form; `operations` is parsed by the function that parses JSON bodies, with its limits. No
//! field of the schema takes a file, so a form is rejected at its first file. The extractor of
//! async-graphql-axum is not used, for the reasons in docs/decisions/0014-async-graphql-axum.md.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Multipart, Request},
    http::{HeaderMap, header},
};

use super::request::{self, RequestBody, bad_request};
use crate::error::Error;

/// Parses a form whose boundary is in the `Content-Type` of these headers. The caller has limited its size.
///
/// # Errors
/// BAD_REQUEST if the form is malformed or has a file; the errors of [`request::parse`] for `operations`.
pub async fn parse(headers: &HeaderMap, body: Vec<u8>) -> Result<RequestBody, Error> {
    let mut form = split(headers, body).await?;
    let mut operations = None;
    let mut map = None;
    while let Some(part) = form.next_field().await.map_err(|_| malformed())? {
        let content = match part.name() {
            _ if part.file_name().is_some() => return Err(takes_no_file()),
            Some("operations") => &mut operations,
            Some("map") => &mut map,
            _ => return Err(takes_no_file()),
        };
        if content.replace(part.bytes().await.map_err(|_| malformed())?).is_some() {
            return Err(bad_request("the form has the part `operations` or `map` twice"));
        }
    }
    check_map(map)?;
    let operations: Bytes = operations.ok_or_else(|| bad_request("the form has no part `operations`"))?;
    request::parse(&operations)
}

async fn split(headers: &HeaderMap, body: Vec<u8>) -> Result<Multipart, Error> {
    let mut request = Request::new(Body::from(body));
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        request.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    Multipart::from_request(request, &()).await.map_err(|_| bad_request("the form has no boundary"))
}

/// Rejects a map that names files.
fn check_map(map: Option<Bytes>) -> Result<(), Error> {
    let map = map.ok_or_else(|| bad_request("the form has no part `map`"))?;
    let paths: BTreeMap<String, Vec<String>> = serde_json::from_slice(&map)
        .map_err(|_| bad_request("`map` must be an object whose values are lists of strings"))?;
    if paths.is_empty() { Ok(()) } else { Err(takes_no_file()) }
}

fn takes_no_file() -> Error {
    bad_request("no field takes a file: send only the parts `operations` and `map`, with `map` as {}")
}

fn malformed() -> Error {
    bad_request("the body is not a multipart form")
}
