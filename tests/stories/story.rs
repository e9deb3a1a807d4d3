//! The main story: three people, their devices, and counts that are right on every one of them.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::eventually;

use crate::{app::App, device::Device, person::Person, place::Place};

const QUIET: Duration = Duration::from_millis(300);

/// What the story needs of its cast.
struct Cast {
    a: Person,
    b: Person,
    c: Person,
    dialog: String,
    b_phone: Device,
    b_laptop: Device,
    c_phone: Device,
}

async fn cast(place: &Place) -> Cast {
    let a = Person::register(place, "ann").await;
    let b = Person::register(place, "bob").await;
    let c = Person::register(place, "cleo").await;
    let dialog = a.create_group(&[&b, &c], "three of us").await;
    let mut b_phone = Device::watching(&b, None).await;
    let mut b_laptop = Device::watching(&Person::login(&place.elsewhere(), "bob").await, None).await;
    let mut c_phone = Device::watching(&c, None).await;
    for device in [&mut b_phone, &mut b_laptop, &mut c_phone] {
        let first = device.frame("u", "unread").await;
        assert_eq!((&first["kind"], &first["total"]), (&json!("SNAPSHOT"), &json!(0)));
        assert_eq!(first["previousVersion"], Value::Null);
    }
    Cast { a, b, c, dialog, b_phone, b_laptop, c_phone }
}

#[tokio::test]
async fn a_badge_goes_up_while_they_watch_and_clears_on_every_device() {
    let app = App::start().await;
    the_story(&app).await;
}

/// The whole story, at one gateway or with everybody's second device at another.
pub async fn the_story(place: &Place) {
    let mut cast = cast(place).await;
    let ids = sending_counts_for_the_others(&mut cast).await;
    reading_clears_on_every_device(&mut cast, &ids).await;
    deleting_takes_back_what_was_unread(&mut cast, &ids).await;
    everything_is_committed(&cast).await;
    joining_and_leaving(place, &mut cast).await;
}

async fn sending_counts_for_the_others(cast: &mut Cast) -> Vec<String> {
    let mut a_phone = Device::watching(&cast.a, None).await;
    assert_eq!(a_phone.frame("u", "unread").await["total"], 0);
    let mut ids = Vec::new();
    for number in 1..=5 {
        let message = cast.a.send(&cast.dialog, &format!("message {number}")).await;
        assert_eq!(message["seq"], number);
        ids.push(message["id"].as_str().unwrap().to_owned());
        for device in [&mut cast.b_phone, &mut cast.b_laptop, &mut cast.c_phone] {
            let frame = device.frame("u", "unread").await;
            assert_eq!((&frame["kind"], &frame["total"]), (&json!("CHANGE"), &json!(number)), "{frame}");
            let row = json!({"dialogId": cast.dialog, "unread": number, "readSeq": 0, "lastSeq": number});
            assert_eq!(frame["changed"], json!([row]));
        }
    }
    a_phone.is_silent("u", QUIET).await;
    assert_eq!(cast.a.total().await, 0, "who writes has nothing to read");
    ids
}

async fn reading_clears_on_every_device(cast: &mut Cast, ids: &[String]) {
    let receipts = "subscription($id: ID!) { readStates(dialogId: $id) { userId readSeq } }";
    cast.c_phone.subscribe("r", receipts, json!({"id": cast.dialog})).await;
    for _ in 0..3 {
        assert_eq!(cast.c_phone.frame("r", "readStates").await["readSeq"], 0);
    }
    assert_eq!(cast.b.read(&cast.dialog, Some(&ids[2])).await, (2, 2, 3));
    for device in [&mut cast.b_phone, &mut cast.b_laptop] {
        let frame = device.frame("u", "unread").await;
        assert_eq!((&frame["total"], &frame["changed"][0]["readSeq"]), (&json!(2), &json!(3)));
    }
    let receipt = cast.c_phone.frame("r", "readStates").await;
    assert_eq!(receipt, json!({"userId": cast.b.id, "readSeq": 3}), "a read receipt is live");

    assert_eq!(cast.b.read(&cast.dialog, Some(&ids[0])).await, (2, 2, 3), "a stale read moves nothing");
    cast.b_phone.is_silent("u", QUIET).await;
    cast.b_laptop.is_silent("u", QUIET).await;
    assert_eq!(cast.c.total().await, 5, "what B reads is B's");
}

async fn deleting_takes_back_what_was_unread(cast: &mut Cast, ids: &[String]) {
    let delete = "mutation($id: ID!) { deleteMessage(id: $id) { text deletedAt } }";
    assert_eq!(
        cast.b.code(delete, json!({"id": ids[3]})).await,
        "NOT_FOUND",
        "only its author deletes a message"
    );
    let deleted = cast.a.data(delete, json!({"id": ids[3]})).await;
    assert_eq!(deleted["deleteMessage"]["text"], "");
    assert!(deleted["deleteMessage"]["deletedAt"].is_string());
    assert_eq!(cast.b_phone.frame("u", "unread").await["total"], 1);
    assert_eq!(cast.b_laptop.frame("u", "unread").await["total"], 1);
    assert_eq!(cast.c_phone.frame("u", "unread").await["total"], 4);

    let (total, unread, _) = cast.b.read(&cast.dialog, None).await;
    assert_eq!((total, unread), (0, 0), "all read");
    assert_eq!(cast.b_phone.frame("u", "unread").await["total"], 0);
    assert_eq!(cast.b_laptop.frame("u", "unread").await["total"], 0);
    assert_eq!(cast.c.total().await, 4, "C keeps hers");
    let unread = "query($id: ID!) { dialogUnread(dialogId: $id) { unread } dialog(id: $id) { unreadCount } }";
    let data = cast.c.data(unread, json!({"id": cast.dialog})).await;
    assert_eq!((&data["dialogUnread"]["unread"], &data["dialog"]["unreadCount"]), (&json!(4), &json!(4)));
}

async fn everything_is_committed(cast: &Cast) {
    let history = "query($id: ID!) { dialog(id: $id) { messages { nodes { seq status text } } } }";
    eventually("every message is COMMITTED", || async {
        let data = cast.b.data(history, json!({"id": cast.dialog})).await;
        let nodes = data["dialog"]["messages"]["nodes"].as_array().unwrap().clone();
        nodes.len() == 5 && nodes.iter().all(|node| node["status"] == "COMMITTED")
    })
    .await;
}

async fn joining_and_leaving(place: &Place, cast: &mut Cast) {
    let d = Person::register(place, "dora").await;
    let add = "mutation($id: ID!, $users: [ID!]!) { addParticipants(dialogId: $id, userIds: $users) { participantIds } }";
    let added = cast.b.data(add, json!({"id": cast.dialog, "users": [d.id]})).await;
    assert_eq!(added["addParticipants"]["participantIds"].as_array().unwrap().len(), 4);
    let mut d_phone = Device::watching(&d, None).await;
    assert_eq!(d_phone.frame("u", "unread").await["total"], 0, "what was said before a join is not unread");
    cast.a.send(&cast.dialog, "welcome").await;
    assert_eq!(d_phone.until_total(1).await.last(), Some(&1), "a join counts from the join");
    cast.b_phone.until_total(1).await;
    cast.c_phone.until_total(5).await;

    let leave = "mutation($id: ID!) { leaveDialog(dialogId: $id) }";
    assert_eq!(cast.c.data(leave, json!({"id": cast.dialog})).await["leaveDialog"], true);
    cast.c_phone.until_total(0).await;
    cast.a.send(&cast.dialog, "after C has left").await;
    cast.b_phone.until_total(2).await;
    cast.c_phone.is_silent("u", QUIET).await;
    assert_eq!(cast.c.total().await, 0, "who has left has nothing to read");
    let dialog = "query($id: ID!) { dialog(id: $id) { id } }";
    assert_eq!(cast.c.data(dialog, json!({"id": cast.dialog})).await["dialog"], Value::Null);
}
