//! Subscriptions streams through a running gateway: over services that answer, lag, are away and come back.

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

const UNREAD: &str = "subscription($since: String) { unread(since: $since) { kind version previousVersion total changed { dialogId unread } } }";
const MESSAGES: &str = "subscription($id: ID!, $since: String) { messages(dialogId: $id, since: $since) { kind version message { id text status failureReason } } }";
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
    assert_eq!(payload["extensions"]["cursor"], frame["version"], "every result says where to resume");
    frame
}

async fn message(client: &mut SocketClient, id: &str) -> Value {
    let payload = client.result(id).await;
    let frame = payload["data"]["messages"].clone();
    assert_eq!(payload["extensions"]["cursor"], frame["version"], "every result says where to resume");
    frame
}

#[tokio::test]
async fn counters_come_with_a_snapshot_and_then_with_every_change() {
    let gateway = RunningGateway::start().await;
    let (user, dialog) = (UserId::now(), DialogId::now());
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
async fn who_comes_back_with_the_newest_version_is_current() {
    let gateway = RunningGateway::start().await;
    let (user, dialog) = (UserId::now(), DialogId::now());
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
async fn who_looks_beyond_a_frame_asks_with_a_token_of_its_own() {
    let gateway = RunningGateway::start().await;
    let (user, dialog) = (UserId::now(), DialogId::now());
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
    assert_eq!(gateway.called("Get"), 10, "none waits for another's, and none is told what another saw");
}

#[tokio::test]
async fn a_stream_that_begins_while_the_counters_are_away_begins_when_they_are_back() {
    let gateway = RunningGateway::start().await;
    gateway.services().away.insert("Snapshots");
    let mut client = gateway.sign_in(UserId::now()).await;
    client.subscribe("u", UNREAD, json!({})).await;
    client.is_quiet().await;
    gateway.services().away.clear();
    assert_eq!(unread(&mut client, "u").await["kind"], "SNAPSHOT");
}

#[tokio::test]
async fn what_the_log_has_lost_is_made_good_by_a_snapshot() {
    let gateway = RunningGateway::start().await;
    let (user, dialog) = (UserId::now(), DialogId::now());
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

/// A dialog of two people, at version 3.
struct Talk {
    id: DialogId,
    ann: UserId,
    bob: UserId,
}

impl Talk {
    fn begin(gateway: &RunningGateway) -> Self {
        let talk = Self { id: DialogId::now(), ann: UserId::now(), bob: UserId::now() };
        let mut services = gateway.services();
        services.dialogs.insert(talk.id, (3, Vec::new()));
        services.members.insert(talk.id, vec![(talk.ann, 0), (talk.bob, 0)]);
        talk
    }

    fn variables(&self) -> Value {
        json!({ "id": self.id.to_string() })
    }

    async fn watch(&self, gateway: &RunningGateway, who: UserId, query: &str) -> SocketClient {
        let mut client = gateway.sign_in(who).await;
        gateway.services().caller = Some(who);
        client.subscribe("s", query, self.variables()).await;
        client
    }

    /// Stores a message of Ann's, or what has become of it, and gives the version.
    fn store(&self, gateway: &RunningGateway, id: MessageId, status: Status) -> i64 {
        let mut services = gateway.services();
        let (version, messages) = services.dialogs.get_mut(&self.id).expect("it has begun");
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
        let (dialog_id, message_id) = (self.id.bytes(), id.bytes());
        let failed = events::MessageFailed { dialog_id, version, message_id, ..Default::default() };
        gateway.emit(Kind::MessageFailed(failed)).await;
    }

    async fn leave(&self, gateway: &RunningGateway, who: UserId) {
        let version = {
            let mut services = gateway.services();
            services.members.get_mut(&self.id).expect("it has begun").retain(|(user, _)| *user != who);
            let (version, _) = services.dialogs.get_mut(&self.id).expect("it has begun");
            *version += 1;
            *version
        };
        let left = events::ParticipantLeft { dialog_id: self.id.bytes(), version, user_id: who.bytes() };
        gateway.emit(Kind::ParticipantLeft(left)).await;
    }
}

#[tokio::test]
async fn a_message_is_fetched_once_and_only_its_author_reads_why_it_failed() {
    let gateway = RunningGateway::start().await;
    let talk = Talk::begin(&gateway);
    let mut ann = talk.watch(&gateway, talk.ann, MESSAGES).await;
    let first = message(&mut ann, "s").await;
    assert_eq!(first, json!({ "kind": "CURRENT", "version": "1-3", "message": null }));
    let mut bob = talk.watch(&gateway, talk.bob, MESSAGES).await;
    message(&mut bob, "s").await;
    let id = talk.send(&gateway).await;
    for client in [&mut ann, &mut bob] {
        let frame = message(client, "s").await;
        let shown =
            json!({ "id": id.to_string(), "text": "hello", "status": "PENDING", "failureReason": null });
        assert_eq!(frame, json!({ "kind": "SENT", "version": "1-4", "message": shown }));
    }
    assert_eq!(gateway.called("Live"), 1);
    talk.fail(&gateway, id).await;
    let (own, others) = (message(&mut ann, "s").await, message(&mut bob, "s").await);
    let failed = |text, reason: Value| {
        let shown =
            json!({ "id": id.to_string(), "text": text, "status": "FAILED", "failureReason": reason });
        json!({ "kind": "FAILED", "version": "1-5", "message": shown })
    };
    assert_eq!(own, failed("hello", json!("full")));
    assert_eq!(others, failed("", Value::Null));
}

#[tokio::test]
async fn what_a_token_opens_is_not_shared_with_other_people() {
    let gateway = RunningGateway::start().await;
    let talk = Talk::begin(&gateway);
    let query = "subscription($id: ID!) { messages(dialogId: $id) { kind message { sender { name } } } }";
    let mut clients = Vec::new();
    for who in [talk.ann, talk.bob, talk.bob] {
        let mut client = talk.watch(&gateway, who, query).await;
        client.result("s").await;
        clients.push(client);
    }
    talk.send(&gateway).await;
    for client in &mut clients {
        assert_eq!(client.result("s").await["data"]["messages"]["message"]["sender"]["name"], "somebody");
    }
    assert_eq!((gateway.called("Live"), gateway.called("Users")), (1, 3), "each asks with its own");
}

#[tokio::test]
async fn messages_wait_for_a_dialog_service_that_is_away() {
    let gateway = RunningGateway::start().await;
    let talk = Talk::begin(&gateway);
    let mut bob = talk.watch(&gateway, talk.bob, MESSAGES).await;
    message(&mut bob, "s").await;
    gateway.services().away.insert("Live");
    talk.send(&gateway).await;
    bob.is_quiet().await;
    gateway.services().away.clear();
    assert_eq!(message(&mut bob, "s").await["kind"], "SENT");
}

#[tokio::test]
async fn a_reader_that_comes_back_is_told_what_it_has_missed() {
    let gateway = RunningGateway::start().await;
    let talk = Talk::begin(&gateway);
    let (kept, lost) = (MessageId::now(), MessageId::now());
    talk.store(&gateway, kept, Status::Committed);
    talk.store(&gateway, lost, Status::Failed);
    for (since, kinds) in
        [("1-3", &["COMMITTED", "FAILED"][..]), ("0", &["COMMITTED"]), ("1-5", &["CURRENT"])]
    {
        let mut bob = gateway.sign_in(talk.bob).await;
        gateway.services().caller = Some(talk.bob);
        bob.subscribe("s", MESSAGES, json!({ "id": talk.id.to_string(), "since": since })).await;
        for kind in kinds {
            let frame = message(&mut bob, "s").await;
            assert_eq!(frame["kind"], **kind, "{since}: {frame}");
            assert!(frame["message"]["text"] != "hello" || *kind == "COMMITTED");
        }
        bob.is_quiet().await;
    }
}

#[tokio::test]
async fn where_too_much_is_replayed_already_a_reader_loads_the_history_instead() {
    let gateway = RunningGateway::start().await;
    let talk = Talk::begin(&gateway);
    talk.store(&gateway, MessageId::now(), Status::Committed);
    let back = async |since: &str| {
        let mut bob = gateway.sign_in(talk.bob).await;
        gateway.services().caller = Some(talk.bob);
        bob.subscribe("s", MESSAGES, json!({ "id": talk.id.to_string(), "since": since })).await;
        message(&mut bob, "s").await["kind"].clone()
    };
    let held = gateway.app.log_reader.hubs.messages.exhaust_replay_budget();
    assert_eq!((back("0").await, back("1-5").await), (json!("RESET"), json!("CURRENT")));
    drop(held);
    assert_eq!(back("0").await, "COMMITTED");
    let all_is_given = || async { gateway.app.log_reader.hubs.messages.replay_budget_is_free() };
    testkit::eventually("what was replayed is let go", all_is_given).await;
}

#[tokio::test]
async fn strangers_find_nothing_and_who_leaves_is_told_that_it_is_over() {
    let gateway = RunningGateway::start().await;
    let talk = Talk::begin(&gateway);
    for query in [MESSAGES, READ_STATES] {
        let mut stranger = talk.watch(&gateway, UserId::now(), query).await;
        let refused = stranger.hear().await;
        assert_eq!(
            (&refused["type"], &refused["payload"][0]["extensions"]["code"]),
            (&json!("error"), &json!("NOT_FOUND"))
        );
    }
    let mut ann = talk.watch(&gateway, talk.ann, MESSAGES).await;
    message(&mut ann, "s").await;
    let mut bob = talk.watch(&gateway, talk.bob, MESSAGES).await;
    message(&mut bob, "s").await;
    bob.subscribe("r", READ_STATES, talk.variables()).await;
    bob.result("r").await;
    bob.result("r").await;
    talk.leave(&gateway, talk.bob).await;
    let mut over = vec![bob.hear().await, bob.hear().await];
    over.sort_by_key(|message| message["id"].to_string());
    assert_eq!(over, [json!({ "id": "r", "type": "complete" }), json!({ "id": "s", "type": "complete" })]);
    talk.send(&gateway).await;
    assert_eq!(message(&mut ann, "s").await["kind"], "SENT");
    bob.is_quiet().await;
    gateway.stop().await;
}

#[tokio::test]
async fn who_has_left_reads_no_receipts_though_the_counters_have_not_heard_of_it() {
    let gateway = RunningGateway::start().await;
    let talk = Talk::begin(&gateway);
    gateway.services().gone.push(talk.bob);
    let mut bob = talk.watch(&gateway, talk.bob, READ_STATES).await;
    let refused = bob.hear().await;
    assert_eq!(refused["payload"][0]["extensions"]["code"], "NOT_FOUND", "{refused}");
    assert_eq!(gateway.called("ReadStates"), 0);
    gateway.services().gone.clear();
    let mut back = talk.watch(&gateway, talk.bob, READ_STATES).await;
    back.result("s").await;
}

#[tokio::test]
async fn read_states_begin_with_everyones_and_go_on_with_every_move() {
    let gateway = RunningGateway::start().await;
    let talk = Talk::begin(&gateway);
    let mut ann = talk.watch(&gateway, talk.ann, READ_STATES).await;
    let mut all = [ann.result("s").await, ann.result("s").await];
    all.sort_by_key(|payload| payload["data"]["readStates"]["userId"].to_string());
    assert_eq!(all[0]["data"]["readStates"], json!({ "userId": talk.ann.to_string(), "readSeq": 0 }));
    assert_eq!(all[0]["extensions"], Value::Null, "there is nothing to resume from");
    for read_seq in [3, 2, 3, 5] {
        let (dialog_id, user_id) = (talk.id.bytes(), talk.bob.bytes());
        gateway.emit(Kind::ReadMarked(events::ReadMarked { dialog_id, user_id, read_seq })).await;
    }
    let mut last = 0;
    while last < 5 {
        let state = ann.result("s").await["data"]["readStates"].clone();
        assert_eq!(state["userId"], talk.bob.to_string());
        let read_seq = state["readSeq"].as_i64().expect("a number");
        assert!(read_seq > last, "never back, never twice");
        last = read_seq;
    }
}

#[tokio::test]
async fn nothing_is_asked_for_a_stream_before_the_log_is_followed() {
    let gateway = RunningGateway::start().await;
    let (hubs, pipeline) = (Hubs::new(&gateway.app.log_reader.service), &gateway.app.endpoint.pipeline);
    let subscriptions = Subscriptions::new(pipeline.clone(), hubs.clone(), SeenVersions::default());
    let (user, session) = (UserId::now(), SessionId::now());
    let caller = Caller { user, session, expires_at_s: 0, authorization: Authorization::new("Bearer x", 0) };
    let client = Client { caller: Some(caller.clone()), address: [127, 0, 0, 1].into() };
    let incoming = OperationRequest { query: Some(UNREAD.to_owned()), ..OperationRequest::default() };
    let admitted = pipeline.admit(incoming, &client, &Call::new()).await.expect("it is valid");
    let mut opening = pin!(subscriptions.open(admitted, Some(caller), Call::new()));
    let early = timeout(Duration::from_millis(200), opening.as_mut()).await;
    assert!(early.is_err(), "what happens before the place in the log is taken would be missed");
    hubs.set_following();
    assert!(opening.await.is_ok());
}

#[tokio::test]
async fn where_events_are_missing_every_stream_is_told_the_state_of_now() {
    let gateway = RunningGateway::start().await;
    let talk = Talk::begin(&gateway);
    let dialog = DialogId::now();
    gateway.services().unread.insert(talk.ann, (4, vec![row(dialog, 2)]));
    let mut counters = gateway.sign_in(talk.ann).await;
    counters.subscribe("u", UNREAD, json!({})).await;
    assert_eq!(unread(&mut counters, "u").await["total"], 2);
    let mut messages = talk.watch(&gateway, talk.ann, MESSAGES).await;
    assert_eq!(message(&mut messages, "s").await["kind"], "CURRENT");
    let mut receipts = talk.watch(&gateway, talk.ann, READ_STATES).await;
    let people = [receipts.result("s").await, receipts.result("s").await];
    // What nobody hears of.
    gateway.services().unread.insert(talk.ann, (6, vec![row(dialog, 5)]));
    gateway.app.log_reader.hubs.resync();
    let frame = unread(&mut counters, "u").await;
    assert_eq!(
        (&frame["kind"], &frame["version"], &frame["total"]),
        (&json!("SNAPSHOT"), &json!("1-6"), &json!(5))
    );
    assert_eq!(message(&mut messages, "s").await["kind"], "RESET");
    for _ in &people {
        assert!(receipts.result("s").await["data"]["readStates"]["readSeq"].is_number());
    }
    counters.is_quiet().await;
    messages.is_quiet().await;
    gateway.emit(changed(talk.ann, 7, dialog, 6, 5)).await;
    let frame = unread(&mut counters, "u").await;
    assert_eq!(
        (&frame["kind"], &frame["previousVersion"], &frame["total"]),
        (&json!("CHANGE"), &json!("1-6"), &json!(6))
    );
}

#[tokio::test]
async fn a_frame_that_cannot_be_shown_is_told_without_a_cursor_and_made_good() {
    let gateway = RunningGateway::start().await;
    let (user, dialog) = (UserId::now(), DialogId::now());
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
        "there is nothing to resume from"
    );
    client.is_quiet().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let tries = gateway.called("Get");
    assert!(tries <= 10, "{tries} tries: each waits twice as long as the one before");
    gateway.services().broken.clear();
    let good = unread(&mut client, "u").await;
    assert_eq!(
        (&good["kind"], &good["version"], &good["total"]),
        (&json!("SNAPSHOT"), &json!("1-1"), &json!(1))
    );
    assert_eq!(good["changed"], json!([{ "unread": 1, "dialog": null }]), "nothing of it is lost");
    client.is_quiet().await;
}

#[tokio::test]
async fn a_query_after_a_push_is_at_least_as_new() {
    let gateway = RunningGateway::start().await;
    let (user, dialog) = (UserId::now(), DialogId::now());
    let mut client = gateway.sign_in_with(&gateway.token(user, SessionId::now(), 300)).await;
    client.subscribe("u", UNREAD, json!({})).await;
    unread(&mut client, "u").await;
    gateway.emit(changed(user, 1, dialog, 1, 0)).await;
    unread(&mut client, "u").await;
    client.subscribe("q", "{ unread { version } }", json!({})).await;
    assert_eq!(
        client.result("q").await["data"]["unread"]["version"],
        "1-1",
        "the played counter answers what is asked for"
    );
}
