//! Tests of plans: an operation has the same answer, to the byte, by its plan and by the resolvers.

use std::{net::Ipv4Addr, sync::Arc};

use async_graphql::Variables;
use parking_lot::Mutex;
use prost::Message;
use proto::{DialogId, SessionId, UserId, counter, dialog};
use serde_json::json;
use telemetry::Call;
use tonic::Status;
use uuid::Uuid;

use crate::{
    client::{
        Client,
        caller::{Authorization, Caller},
        rate_limits::{RateLimiter, RateLimits},
        revoked_sessions::RevokedSessions,
        user_agent::UserAgent,
    },
    hub::Service,
    operation::{Executed, Pipeline, request::OperationRequest},
    schema::resolver_tests::{FULL_DIALOG_PAGE, all_services, dialog_of, user, without_auth},
    seen_versions::SeenVersions,
    testing::{FakeHandler, everywhere, fake_service, reply},
};

/// Dialog 7 of the fake services.
const DIALOG: &str = "00000000-0000-0000-0000-000000000007";

/// Fake services that answer every read.
fn every_read(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    let number = |id: &[u8]| DialogId::parse(id).expect("an id").uuid().as_u128();
    match method {
        "History" => {
            let pages = dialog::HistoryRequest::decode(bytes).expect("a request").pages;
            let page = |page: dialog::HistoryPage| {
                let message = dialog_of(number(&page.dialog_id)).last_message.expect("a message");
                let messages = (1..=3).map(|seq| dialog::Message {
                    seq,
                    text: format!("\"{seq}\"\n\u{1}é"),
                    sender_id: user(u128::from(seq.unsigned_abs())).bytes(),
                    failure_reason: (seq == 2).then(|| "no\\".to_owned()),
                    deleted_at_us: (seq == 3).then_some(5),
                    ..message.clone()
                });
                dialog::HistoryPageReply {
                    found: true,
                    messages: messages.collect(),
                    has_next: page.last.is_some(),
                    has_previous: page.first.is_some(),
                }
            };
            reply(&dialog::HistoryReply { pages: pages.into_iter().map(page).collect() })
        }
        "Messages" => {
            let request = dialog::MessagesRequest::decode(bytes).expect("a request");
            let ids = request.ids.iter().chain(&request.transaction_ids);
            let messages = ids.filter_map(|id| dialog_of(number(id)).last_message).collect();
            reply(&dialog::MessagesReply { messages })
        }
        "Unread" => {
            let row = |number| counter::Row {
                dialog_id: DialogId::new(Uuid::from_u128(number)).bytes(),
                unread: 3,
                read_seq: 4,
                last_seq: 7,
                stale: number == 2,
            };
            let version = Some(counter::Version { epoch: 1, number: 9 });
            // Dialog 2,000 is unknown to the dialog service.
            let rows = [1, 2, 2_000].into_iter().map(row).collect();
            reply(&counter::UnreadReply { version, total: 9, rows, stale: false, ..Default::default() })
        }
        _ => all_services(method, bytes),
    }
}

/// Fake services of which the history fails.
fn without_history(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    if method == "History" { Err(Status::unavailable("unavailable")) } else { every_read(method, bytes) }
}

/// Fake services of which the counters fail.
fn without_counters(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    if matches!(method, "Unread" | "Rows") {
        Err(Status::unavailable("unavailable"))
    } else {
        every_read(method, bytes)
    }
}

struct Fixture {
    pipeline: Pipeline,
    caller: Option<Caller>,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Fixture {
    fn new(handler: FakeHandler) -> Self {
        let calls = Arc::default();
        let peers = everywhere(&fake_service(handler, Arc::clone(&calls)));
        let service = Service::new(peers, &access::ServiceToken::generate());
        let rate_limiter = RateLimiter::new(RateLimits::default(), limit::Limiter::local());
        let revoked = RevokedSessions::default();
        let pipeline = Pipeline::new(service, SeenVersions::default(), rate_limiter, revoked, true, None);
        let caller = Caller {
            user: UserId::new(Uuid::from_u128(5)),
            session: SessionId::now(),
            expires_at_s: i64::MAX,
            authorization: Authorization::new("Bearer x", i64::MAX),
        };
        Self { pipeline, caller: Some(caller), calls }
    }

    /// Returns the answer of [`Pipeline::answer`] and of the resolvers, each with the sorted names of its
    /// calls. The first is `None` if a plan did not answer.
    async fn both(&self, document: &str, variables: serde_json::Value) -> Answers {
        let request = OperationRequest {
            query: Some(document.to_owned()),
            variables: Variables::from_json(variables),
            ..OperationRequest::default()
        };
        let caller = self.caller.clone();
        let client = Client { caller, address: Ipv4Addr::LOCALHOST.into(), user_agent: UserAgent::default() };
        let call = Call::new();
        let admitted = self.pipeline.admit(request, &client, &call).await.expect(document);
        let resolved = self.pipeline.execute(&admitted, self.caller.clone(), call.clone()).await;
        let resolved = serde_json::to_string(&resolved).expect("JSON");
        let resolver_calls = self.take_calls();
        let (answered, is_planned) = match self.pipeline.answer(&admitted, self.caller.clone(), call).await {
            Executed::Json(json) => (String::from_utf8(json).expect("UTF-8"), true),
            Executed::Response(response) => (serde_json::to_string(&response).expect("JSON"), false),
        };
        Answers { answered, is_planned, resolved, calls: (self.take_calls(), resolver_calls) }
    }

    fn take_calls(&self) -> Vec<String> {
        let mut calls = std::mem::take(&mut *self.calls.lock());
        calls.sort();
        calls
    }
}

struct Answers {
    answered: String,
    is_planned: bool,
    resolved: String,
    /// Calls of the answer, and of the resolvers alone.
    calls: (Vec<String>, Vec<String>),
}

#[tokio::test]
async fn a_plan_answers_like_the_resolvers() {
    let fixture = Fixture::new(every_read);
    let page = FULL_DIALOG_PAGE.replace("FIRST", "3");
    let messages = format!(
        "{{ dialog(id: \"{DIALOG}\") {{ messages(first: 2) {{ __typename pageInfo {{ __typename endCursor }}
            edges {{ __typename cursor node {{ __typename id seq text failureReason deletedAt status
                sender {{ __typename id }} }} }} }} last: messages(last: 3) {{ nodes {{ senderId }}
            pageInfo {{ startCursor hasNextPage hasPreviousPage }} }} }} }}"
    );
    let single = format!(
        "{{ a: message(id: \"{DIALOG}\") {{ ...M }} b: message(transactionId: \"{DIALOG}\") {{ ...M }}
            none: message(id: \"x\") {{ id }} row: dialogUnread(dialogId: \"{DIALOG}\") {{ __typename unread
            readSeq lastSeq stale dialogId dialog {{ id }} }} user(id: \"{DIALOG}\") {{ login }}
            unknown: user(id: \"\") {{ id }} dialog(id: \"00000000-0000-0000-0000-0000000fffff\") {{ id }} }}
         fragment M on Message {{ id sender {{ name }} text ... on Message {{ text id dialogId }} }}"
    );
    let documents = [
        "{ __typename }",
        "{ me { id name } again: me { createdAt name login __typename } __typename }",
        "{ unread { total version stale dialogs { dialogId unread } few: dialogs(first: 2) {
            stale dialog { title lastMessage { text sender { name } } unreadCount } } __typename } }",
        "{ dialogs(first: 2) { nodes { ...D } edges { node { ...D participantIds } } } }
            fragment D on Dialog { id title ... on Dialog { title direct } me: participants(first: 1) {
            nodes { id } edges { cursor } pageInfo { hasNextPage hasPreviousPage endCursor } } }",
        "{ dialogs(first: 2) { nodes { id @skip(if: true) } pageInfo { __typename hasNextPage } } }",
        "{ dialogs(first: 1) { nodes { readStates(first: 2) { readSeq userId user { id } } } } }",
        &page,
        &messages,
        &single,
    ];
    for document in documents {
        let Answers { answered, is_planned, resolved, calls } = fixture.both(document, json!({})).await;
        assert!(is_planned, "{document}");
        assert_eq!(answered, resolved, "{document}");
        assert_eq!(calls.0, calls.1, "{document}");
    }
}

#[tokio::test]
async fn a_plan_resolves_variables() {
    let fixture = Fixture::new(every_read);
    let document = "query($first: Int = 2, $size: Int, $after: String, $id: ID!, $with: Boolean!) {
        dialogs(first: $first, after: $after) { nodes { id participants(first: $size) { nodes { id } }
            title @include(if: $with) } pageInfo { hasPreviousPage endCursor } }
        dialog(id: $id) { messages(last: $size) { nodes { seq } } } }";
    let cursor = crate::schema::cursor::List::new("dialogs", "00000000-0000-0000-0000-000000000005")
        .cursor(&format!("17:{DIALOG}"));
    for variables in [
        json!({ "id": DIALOG, "with": true }),
        json!({ "id": DIALOG, "with": false, "first": 1, "size": null, "after": null }),
        json!({ "id": "x", "with": true, "first": null, "size": 1, "after": cursor }),
    ] {
        let Answers { answered, is_planned, resolved, calls } = fixture.both(document, variables).await;
        assert!(is_planned, "{resolved}");
        assert_eq!(answered, resolved);
        assert_eq!(calls.0, calls.1);
    }
}

#[tokio::test]
async fn a_query_with_an_error_is_answered_by_the_resolvers_without_further_calls() {
    let page = FULL_DIALOG_PAGE.replace("FIRST", "2");
    let histories = "{ me { name } dialogs(first: 2) { nodes { title messages { nodes { text } } } } }";
    let unread = "{ unread { total dialogs { dialog { id } } } }";
    let all: [(FakeHandler, &str); 9] = [
        (without_auth, &page),
        (without_auth, "{ me { id } dialogs(first: 1) { nodes { id } } }"),
        (without_history, histories),
        (without_counters, "{ dialogs(first: 2) { nodes { id unreadCount } } unread { total } }"),
        (without_counters, unread),
        (every_read, "{ dialogs(first: 0) { nodes { id } } }"),
        (every_read, "{ dialogs(after: \"x\") { nodes { id } } me { id } }"),
        (every_read, "{ dialogs(first: 1) { nodes { participants(first: 0) { nodes { id } } } } }"),
        (every_read, "{ message { id } unread(atLeast: \"soon\") { total } }"),
    ];
    for (handler, document) in all {
        let fixture = Fixture::new(handler);
        let Answers { answered, is_planned, resolved, calls } = fixture.both(document, json!({})).await;
        assert!(!is_planned, "{document}");
        let json = |text: &str| {
            let mut json: serde_json::Value = serde_json::from_str(text).expect("JSON");
            let errors = json["errors"].as_array_mut().expect("errors");
            errors.sort_by_cached_key(|error| error.to_string());
            json
        };
        assert_eq!(json(&answered), json(&resolved), "{document}");
        assert_eq!(calls.0, calls.1, "{document}");
    }
}

#[tokio::test]
async fn only_the_selected_participants_are_requested() {
    fn recorded(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
        // The size of the request tells the reply's title: the handler has no state.
        let first = dialog::ListRequest::decode(bytes).ok().and_then(|request| request.participants_first);
        match method {
            "List" => {
                let title = Some(format!("{first:?}"));
                let dialogs = vec![dialog::Dialog { title, ..dialog_of(1) }];
                reply(&dialog::ListReply { dialogs, has_next: false })
            }
            _ => all_services(method, bytes),
        }
    }
    let fixture = Fixture::new(recorded);
    for (fields, expected) in [
        ("id", "Some(0)"),
        ("participants { nodes { id } }", "Some(21)"),
        (
            "participants(first: 2) { nodes { id } } many: participants(first: 100) { nodes { id } }",
            "Some(101)",
        ),
        ("participants(first: 2) { nodes { id } } participantIds", "None"),
    ] {
        let document = format!("{{ dialogs(first: 1) {{ edges {{ node {{ title {fields} }} }} }} }}");
        let Answers { answered, resolved, .. } = fixture.both(&document, json!({})).await;
        assert!(answered.contains(&format!("\"title\":\"{expected}\"")), "{answered}");
        assert_eq!(answered, resolved);
    }
}

#[tokio::test]
async fn without_a_caller_and_for_other_fields_there_is_no_plan() {
    let mut fixture = Fixture::new(every_read);
    for document in [
        "{ node(id: \"x\") { id } }",
        "{ __schema { queryType { name } } }",
        "{ nodes(ids: []) { id } }",
        "{ me { id sessions { id userAgent current } } }",
    ] {
        let answers = fixture.both(document, json!({})).await;
        assert!(!answers.is_planned, "{document}");
        assert_eq!(answers.answered, answers.resolved);
    }
    fixture.caller = None;
    let answers = fixture.both("{ me { id } __typename }", json!({})).await;
    assert!(!answers.is_planned && answers.answered.contains("UNAUTHENTICATED"), "{}", answers.answered);
    assert!(fixture.both("{ __typename }", json!({})).await.is_planned);
}
