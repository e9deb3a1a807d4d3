//! The main scenario: three users with several clients each, and exact counts on every client.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::eventually;

use crate::{app::App, caller::Caller, endpoint::Endpoint, socket_client::SocketClient};

const SILENCE: Duration = Duration::from_millis(300);

/// Three users in one group, with subscribed sockets.
struct Fixture {
    a: Caller,
    b: Caller,
    c: Caller,
    dialog: String,
    b_phone: SocketClient,
    b_laptop: SocketClient,
    c_phone: SocketClient,
}

async fn set_up(endpoint: &Endpoint) -> Fixture {
    let a = Caller::register(endpoint, "ann").await;
    let b = Caller::register(endpoint, "bob").await;
    let c = Caller::register(endpoint, "cleo").await;
    let dialog = a.create_group(&[&b, &c], "three of us").await;
    let mut b_phone = SocketClient::watch_unread(&b, None).await;
    let mut b_laptop =
        SocketClient::watch_unread(&Caller::login(&endpoint.second_gateway(), "bob").await, None).await;
    let mut c_phone = SocketClient::watch_unread(&c, None).await;
    for socket in [&mut b_phone, &mut b_laptop, &mut c_phone] {
        let first = socket.frame("u", "unread").await;
        assert_eq!((&first["kind"], &first["total"]), (&json!("SNAPSHOT"), &json!(0)));
        assert_eq!(first["previousVersion"], Value::Null);
    }
    Fixture { a, b, c, dialog, b_phone, b_laptop, c_phone }
}

#[tokio::test]
async fn counts_are_live_and_clear_on_every_client() {
    let app = App::start().await;
    run(&app).await;
}

/// Runs the whole scenario, with every user's second client on the endpoint's second gateway.
pub async fn run(endpoint: &Endpoint) {
    let mut fixture = set_up(endpoint).await;
    let ids = sending_increments_counts_of_the_others(&mut fixture).await;
    reading_decrements_counts_on_every_client(&mut fixture, &ids).await;
    deleting_an_unread_message_decrements_counts(&mut fixture, &ids).await;
    every_message_is_committed(&fixture).await;
    joining_and_leaving_change_who_is_counted(endpoint, &mut fixture).await;
}

fn row(dialog: &str, unread: i64, read_seq: i64, last_seq: i64) -> Value {
    json!({
        "dialogId": dialog, "unread": unread, "readSeq": read_seq, "lastSeq": last_seq, "stale": false,
    })
}

async fn sending_increments_counts_of_the_others(fixture: &mut Fixture) -> Vec<String> {
    let mut a_phone = SocketClient::watch_unread(&fixture.a, None).await;
    assert_eq!(a_phone.frame("u", "unread").await["total"], 0);
    let mut ids = Vec::new();
    for number in 1..=5 {
        let message = fixture.a.send(&fixture.dialog, &format!("message {number}")).await;
        assert_eq!(message["seq"], number);
        ids.push(message["id"].as_str().unwrap().to_owned());
        for socket in [&mut fixture.b_phone, &mut fixture.b_laptop, &mut fixture.c_phone] {
            let frame = socket.frame("u", "unread").await;
            assert_eq!((&frame["kind"], &frame["total"]), (&json!("CHANGE"), &json!(number)), "{frame}");
            let row = row(&fixture.dialog, number, 0, number);
            assert_eq!(frame["changed"], json!([row]));
        }
        let frame = a_phone.frame("u", "unread").await;
        let row = row(&fixture.dialog, 0, number, number);
        assert_eq!((&frame["total"], &frame["changed"]), (&json!(0), &json!([row])), "own messages are read");
    }
    a_phone.expect_silence("u", SILENCE).await;
    assert_eq!(fixture.a.total().await, 0, "the author's own messages are not unread");
    ids
}

async fn reading_decrements_counts_on_every_client(fixture: &mut Fixture, ids: &[String]) {
    let receipts = "subscription($id: ID!) { readStates(dialogId: $id) { userId readSeq } }";
    fixture.c_phone.subscribe("r", receipts, json!({"id": fixture.dialog})).await;
    let mut positions = Vec::new();
    for _ in 0..3 {
        positions.push(fixture.c_phone.frame("r", "readStates").await["readSeq"].as_i64().unwrap());
    }
    positions.sort_unstable();
    assert_eq!(positions, [0, 0, 5], "the author has read its own five messages, the others none");
    assert_eq!(fixture.b.mark_read(&fixture.dialog, Some(&ids[2])).await, (2, 2, 3));
    for socket in [&mut fixture.b_phone, &mut fixture.b_laptop] {
        let frame = socket.frame("u", "unread").await;
        assert_eq!((&frame["total"], &frame["changed"][0]["readSeq"]), (&json!(2), &json!(3)));
    }
    let receipt = fixture.c_phone.frame("r", "readStates").await;
    assert_eq!(receipt, json!({"userId": fixture.b.id, "readSeq": 3}), "read receipts are live");

    assert_eq!(
        fixture.b.mark_read(&fixture.dialog, Some(&ids[0])).await,
        (2, 2, 3),
        "a stale read changes nothing"
    );
    fixture.b_phone.expect_silence("u", SILENCE).await;
    fixture.b_laptop.expect_silence("u", SILENCE).await;
    assert_eq!(fixture.c.total().await, 5, "a read by B does not change C's count");
}

async fn deleting_an_unread_message_decrements_counts(fixture: &mut Fixture, ids: &[String]) {
    let delete = "mutation($id: ID!) { deleteMessage(id: $id) { text deletedAt } }";
    assert_eq!(
        fixture.b.error_code(delete, json!({"id": ids[3]})).await,
        "NOT_FOUND",
        "only the author deletes a message"
    );
    let deleted = fixture.a.data(delete, json!({"id": ids[3]})).await;
    assert_eq!(deleted["deleteMessage"]["text"], "");
    assert!(deleted["deleteMessage"]["deletedAt"].is_string());
    assert_eq!(fixture.b_phone.frame("u", "unread").await["total"], 1);
    assert_eq!(fixture.b_laptop.frame("u", "unread").await["total"], 1);
    assert_eq!(fixture.c_phone.frame("u", "unread").await["total"], 4);

    let (total, unread, _) = fixture.b.mark_read(&fixture.dialog, None).await;
    assert_eq!((total, unread), (0, 0), "everything is read");
    assert_eq!(fixture.b_phone.frame("u", "unread").await["total"], 0);
    assert_eq!(fixture.b_laptop.frame("u", "unread").await["total"], 0);
    assert_eq!(fixture.c.total().await, 4, "C's count does not change");
    let unread = "query($id: ID!) { dialogUnread(dialogId: $id) { unread } dialog(id: $id) { unreadCount } }";
    let data = fixture.c.data(unread, json!({"id": fixture.dialog})).await;
    assert_eq!((&data["dialogUnread"]["unread"], &data["dialog"]["unreadCount"]), (&json!(4), &json!(4)));
}

async fn every_message_is_committed(fixture: &Fixture) {
    let history = "query($id: ID!) { dialog(id: $id) { messages { nodes { seq status text } } } }";
    eventually("every message is COMMITTED", || async {
        let data = fixture.b.data(history, json!({"id": fixture.dialog})).await;
        let nodes = data["dialog"]["messages"]["nodes"].as_array().unwrap().clone();
        nodes.len() == 5 && nodes.iter().all(|node| node["status"] == "COMMITTED")
    })
    .await;
}

async fn joining_and_leaving_change_who_is_counted(endpoint: &Endpoint, fixture: &mut Fixture) {
    let d = Caller::register(endpoint, "dora").await;
    let add = "mutation($id: ID!, $users: [ID!]!) {
        addParticipants(dialogId: $id, userIds: $users) { participantIds } }";
    let added = fixture.b.data(add, json!({"id": fixture.dialog, "users": [d.id]})).await;
    assert_eq!(added["addParticipants"]["participantIds"].as_array().unwrap().len(), 4);
    let mut d_phone = SocketClient::watch_unread(&d, None).await;
    assert_eq!(
        d_phone.frame("u", "unread").await["total"],
        0,
        "messages from before the join are not unread"
    );
    fixture.a.send(&fixture.dialog, "welcome").await;
    assert_eq!(d_phone.until_total(1).await.last(), Some(&1), "messages after the join are unread");
    fixture.b_phone.until_total(1).await;
    fixture.c_phone.until_total(5).await;

    let leave = "mutation($id: ID!) { leaveDialog(dialogId: $id) }";
    assert_eq!(fixture.c.data(leave, json!({"id": fixture.dialog})).await["leaveDialog"], true);
    fixture.c_phone.until_total(0).await;
    fixture.a.send(&fixture.dialog, "after C has left").await;
    fixture.b_phone.until_total(2).await;
    fixture.c_phone.expect_silence("u", SILENCE).await;
    assert_eq!(fixture.c.total().await, 0, "a user who left has no unread messages");
    let dialog = "query($id: ID!) { dialog(id: $id) { id } }";
    assert_eq!(fixture.c.data(dialog, json!({"id": fixture.dialog})).await["dialog"], Value::Null);
}
