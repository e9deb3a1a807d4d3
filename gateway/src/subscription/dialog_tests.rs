//! Tests of the subscriptions of dialogs through a running gateway: messages, read states and the list of
//! dialogs.

use proto::{
    DialogId, MessageId, TransactionId, UserId,
    dialog::{self, Status},
    events::{self, event::Kind},
};
use serde_json::{Value, json};

use crate::testing::{RunningGateway, SocketClient};

pub(super) const MESSAGES: &str = "subscription($id: ID!, $since: String) { \
    messages(dialogId: $id, since: $since) { kind version message { id text status failureReason } } }";
pub(super) const READ_STATES: &str =
    "subscription($id: ID!) { readStates(dialogId: $id) { userId readSeq } }";

pub(super) async fn message(client: &mut SocketClient, id: &str) -> Value {
    let payload = client.result(id).await;
    let frame = payload["data"]["messages"].clone();
    assert_eq!(payload["extensions"]["cursor"], frame["version"], "every result has a cursor");
    frame
}

/// A dialog of two users, at version 3.
pub(super) struct DialogFixture {
    id: DialogId,
    pub(super) ann: UserId,
    bob: UserId,
}

impl DialogFixture {
    pub(super) fn create(gateway: &RunningGateway) -> Self {
        let dialog = Self { id: DialogId::now(), ann: UserId::now(), bob: UserId::now() };
        let mut services = gateway.services();
        services.dialogs.insert(dialog.id, (3, Vec::new()));
        services.members.insert(dialog.id, vec![(dialog.ann, 0), (dialog.bob, 0)]);
        dialog
    }

    pub(super) fn variables(&self) -> Value {
        json!({ "id": self.id.to_string() })
    }

    /// Subscribes a user to the dialog, as the operation `s`.
    pub(super) async fn subscribe(
        &self,
        gateway: &RunningGateway,
        user: UserId,
        query: &str,
    ) -> SocketClient {
        let mut client = gateway.sign_in(user).await;
        gateway.services().caller = Some(user);
        client.subscribe("s", query, self.variables()).await;
        client
    }

    /// Stores a message of Ann, or its new status, and returns the dialog's version.
    pub(super) fn store(&self, gateway: &RunningGateway, id: MessageId, status: Status) -> i64 {
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

    pub(super) async fn send(&self, gateway: &RunningGateway) -> MessageId {
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

    pub(super) async fn fail(&self, gateway: &RunningGateway, id: MessageId) {
        let version = self.store(gateway, id, Status::Failed);
        let dialog_id = self.id.bytes();
        let message_id = id.bytes();
        let failed = events::MessageFailed { dialog_id, version, message_id, ..Default::default() };
        gateway.emit(Kind::MessageFailed(failed)).await;
    }

    pub(super) async fn leave(&self, gateway: &RunningGateway, user: UserId) {
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
        assert_eq!(client.result("s").await["data"]["messages"]["message"]["sender"]["name"], "Ann");
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
    gateway.services().unavailable.insert("Live");
    fixture.send(&gateway).await;
    bob.is_quiet().await;
    gateway.services().unavailable.clear();
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
        let rejected = outsider.receive().await;
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
    let mut completed = vec![bob.receive().await, bob.receive().await];
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
    gateway.services().departed.push(fixture.bob);
    let mut bob = fixture.subscribe(&gateway, fixture.bob, READ_STATES).await;
    let rejected = bob.receive().await;
    assert_eq!(rejected["payload"][0]["extensions"]["code"], "NOT_FOUND", "{rejected}");
    assert_eq!(gateway.called("ReadStates"), 0);
    gateway.services().departed.clear();
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
async fn a_new_title_reaches_the_participants_even_if_the_dialog_service_was_unavailable() {
    let gateway = RunningGateway::start().await;
    let fixture = DialogFixture::create(&gateway);
    let query = "subscription { dialogs { kind dialogId } }";
    let mut ann = fixture.subscribe(&gateway, fixture.ann, query).await;
    let mut outsider = fixture.subscribe(&gateway, UserId::now(), query).await;
    for client in [&mut ann, &mut outsider] {
        let first = client.result("s").await;
        assert_eq!(first["data"]["dialogs"], json!({ "kind": "RESET", "dialogId": null }));
        assert!(first["extensions"].is_null(), "this stream has no cursor");
    }
    let dialog_id = fixture.id.bytes();
    gateway.services().unavailable.insert("Participants");
    gateway
        .emit(Kind::DialogRenamed(events::DialogRenamed { dialog_id: dialog_id.clone(), version: 4 }))
        .await;
    // A later change of the same dialog overtakes the title.
    let user_id = fixture.ann.bytes();
    let left = events::ParticipantLeft { dialog_id: dialog_id.clone(), version: 5, user_id: user_id.clone() };
    gateway.emit(Kind::ParticipantLeft(left)).await;
    let frame = |kind: &str| json!({ "kind": kind, "dialogId": fixture.id.to_string() });
    assert_eq!(ann.result("s").await["data"]["dialogs"], frame("LEFT"));
    gateway.services().unavailable.remove("Participants");
    let joined =
        events::ParticipantJoined { dialog_id: dialog_id.clone(), version: 6, user_id, joined_seq: 0 };
    gateway.emit(Kind::ParticipantJoined(joined)).await;
    assert_eq!(ann.result("s").await["data"]["dialogs"], frame("JOINED"), "the older title sends nothing");
    gateway.emit(Kind::DialogRenamed(events::DialogRenamed { dialog_id, version: 7 })).await;
    assert_eq!(ann.result("s").await["data"]["dialogs"], frame("RENAMED"));
    gateway.app.log_reader.hubs.resync();
    for client in [&mut ann, &mut outsider] {
        assert_eq!(client.result("s").await["data"]["dialogs"]["kind"], "RESET");
    }
}
