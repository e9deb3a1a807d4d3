//! Behaviour of async-graphql-axum for which the gateway does not use it: the reasons of
//! docs/decisions/0014-async-graphql-axum.md. If a test fails after an update, its reason is gone.

use async_graphql::{BatchRequest, ParseRequestError, Response, ServerError};
use async_graphql_axum::{
    GraphQLBatchRequest, GraphQLProtocol, GraphQLResponse, rejection::GraphQLRejection,
};
use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts},
    http::{Request, StatusCode, header},
    response::IntoResponse,
};
use http_body_util::BodyExt;
use serde_json::json;

use super::request;

async fn extract(request: Request<Body>) -> Result<BatchRequest, ParseRequestError> {
    let extracted = GraphQLBatchRequest::<GraphQLRejection>::from_request(request, &()).await;
    extracted.map(GraphQLBatchRequest::into_inner).map_err(|GraphQLRejection(error)| error)
}

async fn extract_body(content_type: &str, body: &str) -> Result<BatchRequest, ParseRequestError> {
    let request = Request::post("/").header(header::CONTENT_TYPE, content_type);
    extract(request.body(Body::from(body.to_owned())).expect("a request")).await
}

fn single(batch: Result<BatchRequest, ParseRequestError>) -> async_graphql::Request {
    match batch {
        Ok(BatchRequest::Single(request)) => request,
        other => panic!("not a single request: {other:?}"),
    }
}

async fn json_request(body: &str) -> async_graphql::Request {
    single(extract_body("application/json", body).await)
}

#[tokio::test]
async fn its_extractor_loses_the_id_of_a_document() {
    let body = r#"{"documentId": "x"}"#;
    assert_eq!(json_request(body).await.query, "");
    let Ok(request::RequestBody::Single(parsed)) = request::parse(body.as_bytes()) else { panic!("{body}") };
    assert_eq!(parsed.document_id.as_deref(), Some("x"));
}

#[tokio::test]
async fn its_extractor_reads_a_list_of_fields_as_one_request() {
    assert_eq!(json_request(r#"["{ a }"]"#).await.query, "{ a }");
    assert_eq!(json_request("[]").await.query, "");
    for body in [r#"["{ a }"]"#, "[]"] {
        request::parse(body.as_bytes()).expect_err(body);
    }
}

#[tokio::test]
async fn its_extractor_names_no_field_in_its_errors() {
    for body in [r#"{"query": 1}"#, r#"{"query": "a", "variables": []}"#, "1"] {
        let error = extract_body("application/json", body).await.expect_err(body).to_string();
        assert!(error.contains("data did not match any variant of untagged enum BatchRequest"), "{error}");
    }
}

#[tokio::test]
async fn its_extractor_has_neither_limits_nor_content_types() {
    let batch = json!(vec![json!({ "query": "{ a }" }); request::BATCH_MAX + 1]).to_string();
    let extracted = extract_body("application/json", &batch).await.expect("a batch over the limit");
    assert_eq!(extracted.iter().count(), request::BATCH_MAX + 1);
    let large = format!(r#"{{"query": "{}"}}"#, "a".repeat(5 * super::BODY_MAX_BYTES));
    assert_eq!(json_request(&large).await.query.len(), 5 * super::BODY_MAX_BYTES);
    assert_eq!(single(extract_body("text/plain", r#"{"query": "{ a }"}"#).await).query, "{ a }");
}

#[tokio::test]
async fn its_extractor_ignores_the_operation_name_of_a_query_string() {
    let request = Request::get("/?query=a&operationName=B").body(Body::empty()).expect("a request");
    assert_eq!(single(extract(request).await).operation_name, None);
}

const FORM: &str = "multipart/form-data; boundary=x";

fn part(head: &str, content: &str) -> String {
    format!("--x\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
}

#[tokio::test]
#[should_panic(expected = "received multipart")]
async fn its_extractor_panics_at_a_part_of_a_multipart_type() {
    let head = "name=\"operations\"\r\nContent-Type: multipart/mixed";
    let form = [part(head, r#"{"query": "{ a }"}"#), part("name=\"map\"", "{}")].concat();
    drop(extract_body(FORM, &format!("{form}--x--\r\n")).await);
}

#[tokio::test]
async fn its_extractor_copies_the_name_of_a_file_for_each_path() {
    let paths = vec!["variables.file"; 1_000];
    let name = "n".repeat(1_000);
    let form = [
        part("name=\"operations\"", r#"{"query": "{ a }", "variables": {"file": null}}"#),
        part("name=\"map\"", &json!({ "0": paths }).to_string()),
        part(&format!("name=\"0\"; filename=\"{name}\""), "content"),
    ];
    let form = format!("{}--x--\r\n", form.concat());
    let request = single(extract_body(FORM, &form).await);
    let names_bytes: usize = request.uploads.iter().map(|upload| upload.filename.len()).sum();
    assert!(form.len() < 25_000, "{} bytes", form.len());
    assert_eq!(names_bytes, 1_000_000);
}

#[tokio::test]
async fn its_response_to_a_rejected_operation_is_200_with_data() {
    let rejected = Response::from_errors(vec![ServerError::new("rejected", None)]);
    let response = GraphQLResponse::from(rejected).into_response();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/graphql-response+json");
    assert!(!response.headers().contains_key(header::CACHE_CONTROL));
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    assert_eq!(body, r#"{"data":null,"errors":[{"message":"rejected"}]}"#);
}

#[tokio::test]
async fn its_subprotocol_is_compared_without_regard_to_letter_case() {
    let offer = |name: &str| {
        let request = Request::get("/").header(header::SEC_WEBSOCKET_PROTOCOL, name);
        request.body(()).expect("a request").into_parts().0
    };
    for name in ["graphql-ws", "GraphQL-WS"] {
        let chosen = GraphQLProtocol::from_request_parts(&mut offer(name), &()).await;
        assert!(chosen.is_ok(), "{name}");
    }
}
