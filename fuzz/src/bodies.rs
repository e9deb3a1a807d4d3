//! Bodies of HTTP requests, and query strings.

use gateway::fuzzing::{BATCH_MAX, Code, Error, RequestBody, request};
use rand::{Rng, rngs::SmallRng};
use serde_json::json;

use crate::{Target, mutate};

/// Parser of requests.
pub struct Bodies;

impl Bodies {
    fn body(bytes: &[u8]) {
        match request::parse(bytes) {
            Ok(RequestBody::Single(_)) => {}
            Ok(RequestBody::Batch(batch)) => assert!((1..=BATCH_MAX).contains(&batch.len())),
            Err(error) => Self::assert_rejection(&error),
        }
    }

    fn query(text: &str) {
        match request::parse_query(text) {
            Ok(incoming) => assert!(incoming.query.as_ref().is_none_or(|query| !query.is_empty())),
            Err(error) => Self::assert_rejection(&error),
        }
    }

    fn assert_rejection(error: &Error) {
        assert!(matches!(error.code(), Code::BadRequest | Code::LimitExceeded), "{error:?}");
        assert!(error.message().len() < 1_000, "{error:?}");
    }

    fn request(random: &mut SmallRng) -> serde_json::Value {
        let mut request = json!({
            "query": "query A($id: ID) { user(id: $id) { name } }",
            "operationName": "A",
            "variables": mutate::object(random, 3),
            "extensions": mutate::object(random, 2),
        });
        for _ in 0..random.random_range(0..3) {
            let name =
                mutate::one(random, &["query", "operationName", "variables", "extensions", "other", "id"]);
            request[name] = mutate::value(random, 3);
        }
        request
    }
}

impl Target for Bodies {
    fn name(&self) -> &'static str {
        "request bodies"
    }

    fn mutated(&mut self, random: &mut SmallRng) -> u64 {
        let request = Self::request(random);
        let count = if random.random_bool(0.2) { random.random_range(0..14) } else { 1 };
        let mut body = match count {
            1 => request.to_string(),
            count => json!(vec![request; count]).to_string(),
        };
        if random.random_bool(0.01) {
            body = body.replace("{}", &mutate::deep(random));
        }
        let mut bytes = body.into_bytes();
        if random.random_bool(0.5) {
            mutate::bytes(random, &mut bytes);
        }
        Self::body(&bytes);
        let text = mutate::text(
            random,
            "query=%7Ba%7D&operationName=A&variables=%7B%22a%22%3A1%7D&extensions=%7B%7D",
        );
        Self::query(&text);
        2
    }

    fn raw(&mut self, bytes: &[u8]) {
        Self::body(bytes);
        Self::query(&String::from_utf8_lossy(bytes));
    }
}
