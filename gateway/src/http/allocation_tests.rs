//! Bounds of the allocations of a request, from the router to the whole body of its answer. The fake services
//! allocate too, for as many calls as the request needs.
//!
//! A bound is some tenth above what was measured (docs/decisions/0022-plans.md). A test that exceeds one has
//! found a clone or a conversion that each request pays for.

use allocation_counter::measure;
use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use http_body_util::BodyExt;
use prost::Message;
use proto::{DialogId, counter};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tonic::Status;
use tower::ServiceExt;
use uuid::Uuid;

use crate::{
    schema::all_services,
    testing::{TestGateway, post, reply},
};

const UNREAD: &str = "{ unread { total version dialogs(first: 100) { dialogId unread } } }";
const PAGE: &str = "{ dialogs(first: 50) { nodes { id title direct unreadCount lastActivityAt
    participants { nodes { id login name } }
    lastMessage { id seq text status createdAt sender { id name } } } pageInfo { hasNextPage } } }";

/// Fake services with 20 unread dialogs.
fn services(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    if method != "Unread" {
        return all_services(method, bytes);
    }
    counter::UnreadRequest::decode(bytes).expect("a request");
    let row = |number| counter::Row {
        dialog_id: DialogId::new(Uuid::from_u128(number)).bytes(),
        unread: 3,
        read_seq: 4,
        last_seq: 7,
        stale: false,
    };
    let version = Some(counter::Version { epoch: 1, number: 9 });
    let rows = (1..=20).map(row).collect();
    reply(&counter::UnreadReply { version, total: 60, rows, stale: false, ..Default::default() })
}

/// Gateway on a runtime of the calling thread, whose allocations are counted.
struct Fixture {
    runtime: Runtime,
    gateway: TestGateway,
    token: String,
}

impl Fixture {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let gateway = runtime.block_on(async { TestGateway::new(true, services) });
        let token = format!("Bearer {}", gateway.token(3_600));
        Self { runtime, gateway, token }
    }

    fn request(&self, document: &str) -> Request<Body> {
        let body = json!({ "query": document }).to_string();
        let request = post(&body).header(header::AUTHORIZATION, &self.token);
        request.body(Body::from(body)).expect("a request")
    }

    fn send(&self, request: Request<Body>) {
        let router = self.gateway.router.clone();
        self.runtime.block_on(async {
            let response = router.oneshot(request).await.expect("the router cannot fail");
            assert_eq!(response.status(), StatusCode::OK);
            response.into_body().collect().await.expect("the body is complete");
        });
    }

    /// Returns the allocations of a request whose document and token are cached.
    fn allocations(&self, document: &str) -> u64 {
        self.send(self.request(document));
        self.send(self.request(document));
        let request = self.request(document);
        measure(|| self.send(request)).count_total
    }
}

#[test]
fn a_request_allocates_within_its_bound() {
    let fixture = Fixture::new();
    let bounds = [("{ __typename }", 120), (UNREAD, 270), (PAGE, 4_050)];
    let measured = bounds.map(|(document, _)| (document, fixture.allocations(document)));
    let within = measured.iter().zip(bounds).all(|((_, measured), (_, bound))| *measured <= bound);
    assert!(within, "{measured:?} exceed {bounds:?}");
}

/// Sends the smallest query `REPEAT` times, for a count of its instructions (`tests/instructions`).
#[test]
#[ignore = "measured by tests/instructions"]
fn smallest_queries() {
    let fixture = Fixture::new();
    let repeat: u32 = std::env::var("REPEAT").expect("REPEAT is set").parse().expect("a number");
    for _ in 0..repeat {
        fixture.send(fixture.request("{ __typename }"));
    }
}
