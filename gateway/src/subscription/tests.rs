//! Tests of subscriptions through a running gateway: services that answer, lag, and are unavailable for
//! a time.

use std::{pin::pin, time::Duration};

use proto::{
    DialogId, MessageId, SessionId, TransactionId, UserId, counter,
    dialog::{self, Status},
    events::{self, event::Kind},
};
use serde_json::{Value, json};
use telemetry::Call;
use tokio::time::timeout;

use super::Subscriptions;
use crate::{
    client::Client,
    client::caller::{Authorization, Caller},
    hub::Hubs,
    operation::request::OperationRequest,
    seen_versions::SeenVersions,
    testing::{RunningGateway, SocketClient},
};

const UNREAD: &str = "subscription($since: String) { \
    unread(since: $since) { kind version previousVersion total changed { dialogId unread } } }";
const MESSAGES: &str = "subscription($id: ID!, $since: String) { \
    messages(dialogId: $id, since: $since) { kind version message { id text status failureReason } } }";
const READ_STATES: &str = "subscription($id: ID!) { readStates(dialogId: $id) { userId readSeq } }";

fn row(dialog: DialogId, unread: i64) -> counter::Row {
    counter::Row { dialog_id: dialog.bytes(), unread, read_seq: 0, last_seq: unread }
}

fn changed(user: UserId, version: i64, dialog: DialogId, unread: i64, was: i64) -> Kind {
    let row = events::UnreadRow { dialog_id: dialog.bytes(), unread, was, read_seq: 0, last_seq: unread };
    let previous = version - 1;
    Kind::UnreadChanged(events::UnreadChanged {
        user_id: user.bytes(),
        epoch: 1,
        version,
        previous,
        rows: vec![row],
    })
}

async fn unread(client: &mut SocketClient, id: &str) -> Value {
    let payload = client.result(id).await;
    let frame = payload["data"]["unread"].clone();
    assert_eq!(payload["extensions"]["cursor"], frame["version"], "every result has a cursor");
    frame
}

async fn message(client: &mut SocketClient, id: &str) -> Value {
    let payload = client.result(id).await;
    let frame = payload["data"]["messages"].clone();
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
    gateway.services().away.insert("Snapshots");
    let mut client = gateway.sign_in(UserId::now()).await;
    client.subscribe("u", UNREAD, json!({})).await;
    client.is_quiet().await;
    gateway.services().away.clear();
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

/// A dialog of two users, at version 3.
struct DialogFixture {
    id: DialogId,
    ann: UserId,
    bob: UserId,
}

impl DialogFixture {
    fn create(gateway: &RunningGateway) -> Self {
        let dialog = Self { id: DialogId::now(), ann: UserId::now(), bob: UserId::now() };
        let mut services = gateway.services();
        services.dialogs.insert(dialog.id, (3, Vec::new()));
        services.members.insert(dialog.id, vec![(dialog.ann, 0), (dialog.bob, 0)]);
        dialog
    }

    fn variables(&self) -> Value {
        json!({ "id": self.id.to_string() })
    }

    /// Subscribes a user to the dialog, as the operation `s`.
    async fn subscribe(&self, gateway: &RunningGateway, user: UserId, query: &str) -> SocketClient {
        let mut client = gateway.sign_in(user).await;
        gateway.services().caller = Some(user);
        client.subscribe("s", query, self.variables()).await;
        client
    }

    /// Stores a message of Ann, or its new status, and returns the dialog's version.
    fn store(&self, gateway: &RunningGateway, id: MessageId, status: Status) -> i64 {
        let mut services = gateway.services();
        let (version, messages) = services.dialogs.get_mut(&self.id).expect("the dialog exists");
        *version += 1;
        messages.retain(|message| message.id != id.bytes());
        let mut message = dialog::Message {
            id: id.bytes(),
            dialog_id: self.id.bytes(),
            seq: 1,
            sender_id: self.ann.bytes(),
            transaction_id: TransactionId::now().bytes(),
            text: "hello".to_owned(),
            version: *version,
            failure_reason: (status == Status::Failed).then(|| "full".to_owned()),
            ..dialog::Message::default()
        };
        message.set_status(status);
        messages.push(message);
        *version
    }

    async fn send(&self, gateway: &RunningGateway) -> MessageId {
        let id = MessageId::now();
        let version = self.store(gateway, id, Status::Pending);
        let sent = events::MessageSent {
            dialog_id: self.id.bytes(),
            version,
            message_id: id.bytes(),
            ..Default::default()
        };
        gateway.emit(Kind::MessageSent(sent)).await;
        id
    }

    async fn fail(&self, gateway: &RunningGateway, id: MessageId) {
        let version = self.store(gateway, id, Status::Failed);
        let dialog_id = self.id.bytes();
        let message_id = id.bytes();
        let failed = events::MessageFailed { dialog_id, version, message_id, ..Default::default() };
        gateway.emit(Kind::MessageFailed(failed)).await;
    }

    async fn leave(&self, gateway: &RunningGateway, user: UserId) {
        let version = {
            let mut services = gateway.services();
            services
                .members
                .get_mut(&self.id)
                .expect("the dialog exists")
                .retain(|(member, _)| *member != user);
            let (version, _) = services.dialogs.get_mut(&self.id).expect("the dialog exists");
            *version += 1;
            *version
        };
        let left = events::ParticipantLeft { dialog_id: self.id.bytes(), version, user_id: user.bytes() };
        gateway.emit(Kind::ParticipantLeft(left)).await;
    }
}

#[tokio::test]
async fn a_message_is_fetched_once_and_only_its_author_receives_the_failure_reason() {
    let gateway = RunningGateway::start().await;
    let fixture = DialogFixture::create(&gateway);
    let mut ann = fixture.subscribe(&gateway, fixture.ann, MESSAGES).await;
    let first = message(&mut ann, "s").await;
    assert_eq!(first, json!({ "kind": "CURRENT", "version": "1-3", "message": null }));
    let mut bob = fixture.subscribe(&gateway, fixture.bob, MESSAGES).await;
    message(&mut bob, "s").await;
    let id = fixture.send(&gateway).await;
    for client in [&mut ann, &mut bob] {
        let frame = message(client, "s").await;
        let shown =
            json!({ "id": id.to_string(), "text": "hello", "status": "PENDING", "failureReason": null });
        assert_eq!(frame, json!({ "kind": "SENT", "version": "1-4", "message": shown }));
    }
    assert_eq!(gateway.called("Live"), 1);
    fixture.fail(&gateway, id).await;
    let author = message(&mut ann, "s").await;
    let other = message(&mut bob, "s").await;
    let failed = |text, reason: Value| {
        let shown =
            json!({ "id": id.to_string(), "text": text, "status": "FAILED", "failureReason": reason });
        json!({ "kind": "FAILED", "version": "1-5", "message": shown })
    };
    assert_eq!(author, failed("hello", json!("full")));
    assert_eq!(other, failed("", Value::Null));
}

#[tokio::test]
async fn results_that_depend_on_the_token_are_not_shared() {
    let gateway = RunningGateway::start().await;
    let fixture = DialogFixture::create(&gateway);
    let query = "subscription($id: ID!) { messages(dialogId: $id) { kind message { sender { name } } } }";
    let mut clients = Vec::new();
    for user in [fixture.ann, fixture.bob, fixture.bob] {
        let mut client = fixture.subscribe(&gateway, user, query).await;
        client.result("s").await;
        clients.push(client);
    }
    fixture.send(&gateway).await;
    for client in &mut clients {
        assert_eq!(client.result("s").await["data"]["messages"]["message"]["sender"]["name"], "somebody");
    }
    assert_eq!(
        (gateway.called("Live"), gateway.called("Users")),
        (1, 3),
        "each stream calls with its own token"
    );
}

#[tokio::test]
async fn messages_wait_for_an_unavailable_dialog_service() {
    let gateway = RunningGateway::start().await;
    let fixture = DialogFixture::create(&gateway);
    let mut bob = fixture.subscribe(&gateway, fixture.bob, MESSAGES).await;
    message(&mut bob, "s").await;
    gateway.services().away.insert("Live");
    fixture.send(&gateway).await;
    bob.is_quiet().await;
    gateway.services().away.clear();
    assert_eq!(message(&mut bob, "s").await["kind"], "SENT");
}

#[tokio::test]
async fn a_client_that_resumes_receives_the_changes_that_it_missed() {
    let gateway = RunningGateway::start().await;
    let fixture = DialogFixture::create(&gateway);
    fixture.store(&gateway, MessageId::now(), Status::Committed);
    fixture.store(&gateway, MessageId::now(), Status::Failed);
    for (since, kinds) in
        [("1-3", &["COMMITTED", "FAILED"][..]), ("0", &["COMMITTED"]), ("1-5", &["CURRENT"])]
    {
        let mut bob = gateway.sign_in(fixture.bob).await;
        gateway.services().caller = Some(fixture.bob);
        bob.subscribe("s", MESSAGES, json!({ "id": fixture.id.to_string(), "since": since })).await;
        for kind in kinds {
            let frame = message(&mut bob, "s").await;
            assert_eq!(frame["kind"], **kind, "{since}: {frame}");
            assert!(frame["message"]["text"] != "hello" || *kind == "COMMITTED");
        }
        bob.is_quiet().await;
    }
}

#[tokio::test]
async fn a_client_loads_the_history_when_the_replay_budget_is_exhausted() {
    let gateway = RunningGateway::start().await;
    let fixture = DialogFixture::create(&gateway);
    fixture.store(&gateway, MessageId::now(), Status::Committed);
    let resume = async |since: &str| {
        let mut bob = gateway.sign_in(fixture.bob).await;
        gateway.services().caller = Some(fixture.bob);
        bob.subscribe("s", MESSAGES, json!({ "id": fixture.id.to_string(), "since": since })).await;
        message(&mut bob, "s").await["kind"].clone()
    };
    let permit = gateway.app.log_reader.hubs.messages.exhaust_replay_budget();
    assert_eq!((resume("0").await, resume("1-5").await), (json!("RESET"), json!("CURRENT")));
    drop(permit);
    assert_eq!(resume("0").await, "COMMITTED");
    let budget_is_free = || async { gateway.app.log_reader.hubs.messages.replay_budget_is_free() };
    testkit::eventually("the replay budget is free", budget_is_free).await;
}

#[tokio::test]
async fn non_participants_are_rejected_and_leaving_completes_the_streams() {
    let gateway = RunningGateway::start().await;
    let fixture = DialogFixture::create(&gateway);
    for query in [MESSAGES, READ_STATES] {
        let mut outsider = fixture.subscribe(&gateway, UserId::now(), query).await;
        let rejected = outsider.hear().await;
        assert_eq!(
            (&rejected["type"], &rejected["payload"][0]["extensions"]["code"]),
            (&json!("error"), &json!("NOT_FOUND"))
        );
    }
    let mut ann = fixture.subscribe(&gateway, fixture.ann, MESSAGES).await;
    message(&mut ann, "s").await;
    let mut bob = fixture.subscribe(&gateway, fixture.bob, MESSAGES).await;
    message(&mut bob, "s").await;
    bob.subscribe("r", READ_STATES, fixture.variables()).await;
    bob.result("r").await;
    bob.result("r").await;
    fixture.leave(&gateway, fixture.bob).await;
    let mut completed = vec![bob.hear().await, bob.hear().await];
    completed.sort_by_key(|message| message["id"].to_string());
    assert_eq!(
        completed,
        [json!({ "id": "r", "type": "complete" }), json!({ "id": "s", "type": "complete" })]
    );
    fixture.send(&gateway).await;
    assert_eq!(message(&mut ann, "s").await["kind"], "SENT");
    bob.is_quiet().await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_user_who_left_is_rejected_even_before_the_counter_knows() {
    let gateway = RunningGateway::start().await;
    let fixture = DialogFixture::create(&gateway);
    gateway.services().gone.push(fixture.bob);
    let mut bob = fixture.subscribe(&gateway, fixture.bob, READ_STATES).await;
    let rejected = bob.hear().await;
    assert_eq!(rejected["payload"][0]["extensions"]["code"], "NOT_FOUND", "{rejected}");
    assert_eq!(gateway.called("ReadStates"), 0);
    gateway.services().gone.clear();
    let mut rejoined = fixture.subscribe(&gateway, fixture.bob, READ_STATES).await;
    rejoined.result("s").await;
}

#[tokio::test]
async fn read_states_start_with_all_participants_and_continue_with_every_advance() {
    let gateway = RunningGateway::start().await;
    let fixture = DialogFixture::create(&gateway);
    let mut ann = fixture.subscribe(&gateway, fixture.ann, READ_STATES).await;
    let mut all = [ann.result("s").await, ann.result("s").await];
    all.sort_by_key(|payload| payload["data"]["readStates"]["userId"].to_string());
    assert_eq!(all[0]["data"]["readStates"], json!({ "userId": fixture.ann.to_string(), "readSeq": 0 }));
    assert_eq!(all[0]["extensions"], Value::Null, "the stream cannot be resumed from here");
    for read_seq in [3, 2, 3, 5] {
        let dialog_id = fixture.id.bytes();
        let user_id = fixture.bob.bytes();
        gateway.emit(Kind::ReadMarked(events::ReadMarked { dialog_id, user_id, read_seq })).await;
    }
    let mut last = 0;
    while last < 5 {
        let state = ann.result("s").await["data"]["readStates"].clone();
        assert_eq!(state["userId"], fixture.bob.to_string());
        let read_seq = state["readSeq"].as_i64().expect("a number");
        assert!(read_seq > last, "it only rises");
        last = read_seq;
    }
}

#[tokio::test]
async fn a_stream_does_not_open_before_the_log_is_followed() {
    let gateway = RunningGateway::start().await;
    let hubs = Hubs::new(&gateway.app.log_reader.service);
    let pipeline = &gateway.app.endpoint.pipeline;
    let subscriptions = Subscriptions::new(pipeline.clone(), hubs.clone(), SeenVersions::default());
    let user = UserId::now();
    let session = SessionId::now();
    let caller = Caller { user, session, expires_at_s: 0, authorization: Authorization::new("Bearer x", 0) };
    let client = Client { caller: Some(caller.clone()), address: [127, 0, 0, 1].into() };
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
    gateway.services().broken.insert("Get");
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
    gateway.services().broken.clear();
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
