//! Compressed bodies of requests.

use std::io::Write;

use axum::{
    body::Body,
    http::{Request, header},
};
use flate2::{Compression, write::GzEncoder};

use super::BODY_MAX_BYTES;
use crate::testing::{Answer, TestGateway};

const QUERY: &str = r#"{"query":"{ __typename }"}"#;

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes()).expect("a vector accepts all");
    encoder.finish().expect("a vector accepts all")
}

async fn answer_to(encoding: &str, body: Vec<u8>) -> Answer {
    let request = Request::post("/graphql")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, body.len().to_string())
        .header(header::CONTENT_ENCODING, encoding);
    TestGateway::alone().send(request.body(Body::from(body)).expect("a request")).await
}

#[tokio::test]
async fn a_gzip_body_is_read_up_to_the_limit_of_its_decompressed_size() {
    let answer = answer_to("gzip", gzip(QUERY)).await;
    assert_eq!((answer.status.as_u16(), &answer.json["data"]["__typename"]), (200, &"Query".into()));
    let padded = |size: usize| gzip(&format!("{QUERY}{}", " ".repeat(size - QUERY.len())));
    for (size, status) in [(BODY_MAX_BYTES, 200), (BODY_MAX_BYTES + 1, 413), (100_000_000, 413)] {
        let body = padded(size);
        assert!(body.len() < BODY_MAX_BYTES, "{} bytes compressed", body.len());
        assert_eq!(answer_to("gzip", body).await.status.as_u16(), status, "{size} bytes");
    }
}

#[tokio::test]
async fn a_broken_gzip_body_is_400() {
    let mut cut = gzip(QUERY);
    cut.truncate(cut.len() - 9);
    for body in [cut, QUERY.into(), Vec::new()] {
        let answer = answer_to("gzip", body).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (400, "BAD_REQUEST"));
    }
}

#[tokio::test]
async fn another_encoding_is_415_and_names_gzip() {
    for encoding in ["br", "deflate", "zstd", "gzip, br", "nonsense"] {
        let answer = answer_to(encoding, QUERY.into()).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (415, "BAD_REQUEST"), "{encoding}");
        assert_eq!(answer.headers[header::ACCEPT_ENCODING], "gzip", "{encoding}");
    }
    assert_eq!(answer_to("identity", QUERY.into()).await.status.as_u16(), 200);
}
