//! Tests of subscriptions through a running gateway: unread counts, failed results and resynchronisation.

use std::{pin::pin, time::Duration};

use proto::{
    DialogId, SessionId, UserId, counter,
    events::{self, event::Kind},
};
use serde_json::{Value, json};
use telemetry::Call;
use tokio::time::timeout;

use super::{
    Subscriptions,
    dialog_tests::{DialogFixture, MESSAGES, READ_STATES, message},
};
use crate::{
    client::Client,
    client::caller::{Authorization, Caller},
    client::user_agent::UserAgent,
    connections::answer_budget::AnswerBudget,
    hub::Hubs,
    operation::request::OperationRequest,
    seen_versions::SeenVersions,
    testing::{FakeServices, RunningGateway, SocketClient},
};

pub(super) const UNREAD: &str = "subscription($since: String) { \
    unread(since: $since) { kind version previousVersion total changed { dialogId unread } } }";

pub(super) fn row(dialog: DialogId, unread: i64) -> counter::Row {
    counter::Row { dialog_id: dialog.bytes(), unread, read_seq: 0, last_seq: unread, stale: false }
}

pub(super) fn changed(user: UserId, version: i64, dialog: DialogId, unread: i64, was: i64) -> Kind {
    let row = events::UnreadRow {
        dialog_id: dialog.bytes(),
        unread,
        was,
        read_seq: 0,
        last_seq: unread,
        stale: false,
    };
    let previous = version - 1;
    Kind::UnreadChanged(events::UnreadChanged {
        user_id: user.bytes(),
        epoch: 1,
        version,
        previous,
        rows: vec![row],
        stale: false,
    })
}

async fn unread(client: &mut SocketClient, id: &str) -> Value {
    let payload = client.result(id).await;
    let frame = payload["data"]["unread"].clone();
    assert_eq!(payload["extensions"]["cursor"], frame["version"], "every result has a cursor");
    frame
}

#[tokio::test]
async fn unread_counts_start_with_a_snapshot_and_continue_with_every_change() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let dialog = DialogId::now();
    gateway.services().unread.insert(user, (4, vec![row(dialog, 2)]));
    let mut client = gateway.sign_in(user).await;
    client.subscribe("u", UNREAD, json!({})).await;
    let first = unread(&mut client, "u").await;
    let shown = json!([{ "dialogId": dialog.to_string(), "unread": 2 }]);
    assert_eq!(
        first,
        json!({ "kind": "SNAPSHOT", "version": "1-4", "previousVersion": null, "total": 2, "changed": shown })
    );
    gateway.emit(changed(user, 5, dialog, 3, 2)).await;
    gateway.emit(changed(UserId::now(), 5, dialog, 9, 0)).await;
    let second = unread(&mut client, "u").await;
    assert_eq!(
        (&second["kind"], &second["version"], &second["previousVersion"], &second["total"]),
        (&json!("CHANGE"), &json!("1-5"), &json!("1-4"), &json!(3))
    );
    client.is_quiet().await;
    assert_eq!(gateway.called("Snapshots"), 1);
}

#[tokio::test]
async fn a_client_that_resumes_from_the_newest_version_is_current() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let dialog = DialogId::now();
    gateway.services().unread.insert(user, (4, vec![row(dialog, 2)]));
    let mut client = gateway.sign_in(user).await;
    for (since, kind) in [("1-4", "CURRENT"), ("1-3", "SNAPSHOT"), ("1-9", "SNAPSHOT"), ("0-4", "SNAPSHOT")] {
        client.subscribe(since, UNREAD, json!({ "since": since })).await;
        let first = unread(&mut client, since).await;
        assert_eq!((&first["kind"], &first["version"]), (&json!(kind), &json!("1-4")), "{since}");
        assert_eq!(first["total"], 2);
    }
}

#[tokio::test]
async fn a_result_that_needs_service_calls_is_executed_for_each_stream() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let dialog = DialogId::now();
    let query = "subscription { unread { version changed { unread dialog { id } } } }";
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = gateway.sign_in(user).await;
        client.subscribe("u", query, json!({})).await;
        client.result("u").await;
        clients.push(client);
    }
    gateway.emit(changed(user, 1, dialog, 1, 0)).await;
    for client in &mut clients {
        let payload = client.result("u").await;
        assert_eq!(payload["data"]["unread"]["version"], "1-1");
        assert_eq!(payload["data"]["unread"]["changed"][0], json!({ "unread": 1, "dialog": null }));
    }
    assert_eq!(
        gateway.called("Get"),
        10,
        "no stream waits for another, and none receives the data of another"
    );
}

#[tokio::test]
async fn a_stream_opened_while_the_counter_is_unavailable_starts_when_it_answers() {
    let gateway = RunningGateway::start().await;
    gateway.services().unavailable.insert("Snapshots");
    let mut client = gateway.sign_in(UserId::now()).await;
    client.subscribe("u", UNREAD, json!({})).await;
    client.is_quiet().await;
    gateway.services().unavailable.clear();
    assert_eq!(unread(&mut client, "u").await["kind"], "SNAPSHOT");
}

#[tokio::test]
async fn a_gap_in_the_versions_is_followed_by_a_snapshot() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let dialog = DialogId::now();
    let mut client = gateway.sign_in(user).await;
    client.subscribe("u", UNREAD, json!({})).await;
    unread(&mut client, "u").await;
    gateway.services().unread.insert(user, (7, vec![row(dialog, 7)]));
    gateway.emit(changed(user, 7, dialog, 7, 6)).await;
    let frame = unread(&mut client, "u").await;
    assert_eq!(
        (&frame["kind"], &frame["version"], &frame["total"]),
        (&json!("SNAPSHOT"), &json!("1-7"), &json!(7))
    );
}

#[tokio::test]
async fn a_stream_does_not_open_before_the_log_is_followed() {
    let gateway = RunningGateway::start().await;
    let hubs = Hubs::new(&gateway.app.revocation.service);
    let pipeline = &gateway.app.endpoint.pipeline;
    let subscriptions =
        Subscriptions::new(pipeline.clone(), hubs.clone(), SeenVersions::default(), AnswerBudget::new(0));
    let user = UserId::now();
    let session = SessionId::now();
    let caller = Caller { user, session, expires_at_s: 0, authorization: Authorization::new("Bearer x", 0) };
    let user_agent = UserAgent::default();
    let client = Client { caller: Some(caller.clone()), address: [127, 0, 0, 1].into(), user_agent };
    let request = OperationRequest { query: Some(UNREAD.to_owned()), ..OperationRequest::default() };
    let admitted = pipeline.admit(request, &client, &Call::new()).await.expect("valid operation");
    let mut opening = pin!(subscriptions.open(admitted, Some(caller), Call::new()));
    let early = timeout(Duration::from_millis(200), opening.as_mut()).await;
    assert!(early.is_err(), "events before the end of the log is found would be missed");
    hubs.set_following();
    assert!(opening.await.is_ok());
}

#[tokio::test]
async fn a_resync_sends_the_current_state_to_every_stream() {
    let gateway = RunningGateway::start().await;
    let fixture = DialogFixture::create(&gateway);
    let dialog = DialogId::now();
    gateway.services().unread.insert(fixture.ann, (4, vec![row(dialog, 2)]));
    let mut counters = gateway.sign_in(fixture.ann).await;
    counters.subscribe("u", UNREAD, json!({})).await;
    assert_eq!(unread(&mut counters, "u").await["total"], 2);
    let mut messages = fixture.subscribe(&gateway, fixture.ann, MESSAGES).await;
    assert_eq!(message(&mut messages, "s").await["kind"], "CURRENT");
    let mut receipts = fixture.subscribe(&gateway, fixture.ann, READ_STATES).await;
    let states = [receipts.result("s").await, receipts.result("s").await];
    // A change without an event.
    gateway.services().unread.insert(fixture.ann, (6, vec![row(dialog, 5)]));
    gateway.app.log_reader.hubs.resync();
    let frame = unread(&mut counters, "u").await;
    assert_eq!(
        (&frame["kind"], &frame["version"], &frame["total"]),
        (&json!("SNAPSHOT"), &json!("1-6"), &json!(5))
    );
    assert_eq!(message(&mut messages, "s").await["kind"], "RESET");
    for _ in &states {
        assert!(receipts.result("s").await["data"]["readStates"]["readSeq"].is_number());
    }
    counters.is_quiet().await;
    messages.is_quiet().await;
    gateway.emit(changed(fixture.ann, 7, dialog, 6, 5)).await;
    let frame = unread(&mut counters, "u").await;
    assert_eq!(
        (&frame["kind"], &frame["previousVersion"], &frame["total"]),
        (&json!("CHANGE"), &json!("1-6"), &json!(6))
    );
}

#[tokio::test]
async fn a_failed_frame_has_no_cursor_and_is_followed_by_a_snapshot() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let dialog = DialogId::now();
    let mut client = gateway.sign_in(user).await;
    let query = "subscription { unread { kind version total changed { unread dialog { id } } } }";
    client.subscribe("u", query, json!({})).await;
    assert_eq!(unread(&mut client, "u").await["kind"], "SNAPSHOT");
    gateway.services().panicking.insert("Get");
    gateway.services().unread.insert(user, (1, vec![row(dialog, 1)]));
    gateway.emit(changed(user, 1, dialog, 1, 0)).await;
    let failed = client.result("u").await;
    assert_eq!(failed["errors"][0]["extensions"]["code"], "INTERNAL", "{failed}");
    assert_eq!(
        (&failed["data"], &failed["extensions"]),
        (&Value::Null, &Value::Null),
        "the stream cannot be resumed from here"
    );
    client.is_quiet().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let attempts = gateway.called("Get");
    assert!(attempts <= 10, "{attempts} attempts: the backoff doubles");
    gateway.services().panicking.clear();
    let recovered = unread(&mut client, "u").await;
    assert_eq!(
        (&recovered["kind"], &recovered["version"], &recovered["total"]),
        (&json!("SNAPSHOT"), &json!("1-1"), &json!(1))
    );
    assert_eq!(
        recovered["changed"],
        json!([{ "unread": 1, "dialog": null }]),
        "the snapshot contains the failed change"
    );
    client.is_quiet().await;
}

#[tokio::test]
async fn a_query_after_a_frame_is_at_least_as_new() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let dialog = DialogId::now();
    let mut client = gateway.sign_in_with(&gateway.token(user, SessionId::now(), 300)).await;
    client.subscribe("u", UNREAD, json!({})).await;
    unread(&mut client, "u").await;
    gateway.emit(changed(user, 1, dialog, 1, 0)).await;
    unread(&mut client, "u").await;
    client.subscribe("q", "{ unread { version } }", json!({})).await;
    assert_eq!(
        client.result("q").await["data"]["unread"]["version"],
        "1-1",
        "the fake counter answers with the requested version"
    );
}

#[tokio::test]
async fn a_gateway_that_starts_while_kafka_is_away_answers_queries_and_refuses_revoked_sessions() {
    let revoked = SessionId::now();
    let gateway =
        RunningGateway::start_without_kafka(FakeServices { revoked: vec![revoked], ..Default::default() })
            .await;
    let report = gateway.readiness.report().1;
    assert_eq!(report["checks"]["log"]["status"], "degraded", "{report}");
    let user = UserId::now();
    let mut client = gateway.sign_in(user).await;
    client.subscribe("1", "{ me { name } }", json!({})).await;
    assert_eq!(client.result("1").await["data"]["me"]["name"], "Ann");
    assert_eq!(client.receive().await["type"], "complete");
    client.subscribe("u", UNREAD, json!({})).await;
    client.is_quiet().await;
    let mut late = gateway.connect().await;
    let payload = json!({ "authToken": gateway.token(user, revoked, 300) });
    late.send(json!({ "type": "connection_init", "payload": payload })).await;
    assert_eq!(late.closed().await.0, 4403);
    gateway.stop().await;
}

#[tokio::test]
async fn a_version_that_the_counter_has_lost_is_reported_and_the_new_epoch_replaces_the_state() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let dialog = DialogId::now();
    gateway.services().unread.insert(user, (5, vec![row(dialog, 2)]));
    let mut client = gateway.sign_in(user).await;
    client.subscribe("u", UNREAD, json!({})).await;
    assert_eq!(unread(&mut client, "u").await["version"], "1-5");
    // The database of the counter is restored; the counter does not know it.
    gateway.services().unread.insert(user, (3, vec![row(dialog, 1)]));
    gateway.app.log_reader.hubs.resync();
    let frame = unread(&mut client, "u").await;
    assert_eq!(
        (&frame["kind"], &frame["version"], &frame["total"]),
        (&json!("SNAPSHOT"), &json!("2-3"), &json!(1))
    );
}

#[tokio::test]
async fn a_raised_epoch_replaces_the_state_of_every_subscriber() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let dialog = DialogId::now();
    gateway.services().unread.insert(user, (5, vec![row(dialog, 2)]));
    let mut client = gateway.sign_in(user).await;
    client.subscribe("u", UNREAD, json!({})).await;
    assert_eq!(unread(&mut client, "u").await["version"], "1-5");
    let stale = counter::Row { stale: true, ..row(dialog, 1) };
    gateway.services().unread.insert(user, (3, vec![stale]));
    gateway.services().raised = 8;
    gateway.emit(Kind::UnreadEpochRaised(events::EpochRaised { epoch: 9 })).await;
    let frame = unread(&mut client, "u").await;
    assert_eq!((&frame["kind"], &frame["version"]), (&json!("SNAPSHOT"), &json!("9-3")));
    gateway.emit(changed(user, 6, dialog, 7, 2)).await;
    client.is_quiet().await;
}
