//! What must be true at rest, computed anew from what was said and read.

use serde_json::{Value, json};
use testkit::eventually;

use crate::person::Person;

/// The whole history of a dialog, oldest first.
pub async fn history(person: &Person, dialog: &str) -> Vec<Value> {
    let document = "query($id: ID!, $after: String) { dialog(id: $id) { messages(first: 100, after: $after) {
        nodes { id seq status senderId deletedAt } pageInfo { hasNextPage endCursor } } } }";
    let (mut all, mut after) = (Vec::new(), Value::Null);
    loop {
        let mut data = person.data(document, json!({"id": dialog, "after": after})).await;
        let page = &mut data["dialog"]["messages"];
        all.append(page["nodes"].as_array_mut().unwrap());
        if page["pageInfo"]["hasNextPage"] != true {
            return all;
        }
        after = page["pageInfo"]["endCursor"].take();
    }
}

/// The person's count is that of the others' undeleted messages above the person's pointer; for who was there from the
/// beginning.
pub async fn unread_is_exact(person: &Person, dialog: &str, history: &[Value]) {
    let document = "query($id: ID!) { dialogUnread(dialogId: $id) { unread readSeq } }";
    eventually("the count is exact", || async {
        let data = person.data(document, json!({"id": dialog})).await;
        let read_seq = data["dialogUnread"]["readSeq"].as_i64().unwrap();
        let counts = |message: &&Value| {
            message["seq"].as_i64().unwrap() > read_seq
                && message["senderId"] != person.id.as_str()
                && message["deletedAt"].is_null()
        };
        data["dialogUnread"]["unread"].as_u64().unwrap() == history.iter().filter(counts).count() as u64
    })
    .await;
}
