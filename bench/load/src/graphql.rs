//! Documents that the scenarios execute, and the parts of their answers that are checked.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::oracle::Counts;

/// Creates a dialog.
pub const CREATE: &str = "mutation($input: CreateDialogInput!) { createDialog(input: $input) { id } }";
/// Returns the caller's counter of a dialog; null until the counter service knows the participant.
pub const JOINED: &str = "query($id: ID!) { dialogUnread(dialogId: $id) { unread } }";
/// Sends a message.
pub const SEND: &str = "mutation($input: SendMessageInput!) { sendMessage(input: $input) { id seq status } }";
/// Returns all counts of a caller with at most 100 unread dialogs.
pub const COUNTS: &str = "{ unread { total stale dialogs(first: 100) { dialogId unread } } }";
/// Subscribes to the caller's counts.
pub const UNREAD: &str = "subscription { unread { kind version total changed { dialogId unread lastSeq } } }";

/// Encodes an operation.
pub fn operation(document: &str, variables: &Value) -> Bytes {
    json!({"query": document, "variables": variables}).to_string().into()
}

/// Encodes a send. Repeating it with the same key sends nothing.
pub fn send_operation(dialog: &str, text: &str, key: &str) -> Bytes {
    operation(SEND, &json!({"input": {"dialogId": dialog, "text": text, "clientKey": key}}))
}

#[derive(Deserialize)]
struct Answer<T> {
    data: Option<T>,
    errors: Option<Value>,
}

/// Parses the data of an answer. An error in the answer is an error here.
pub fn data<T: DeserializeOwned>(answer: &[u8]) -> anyhow::Result<T> {
    let parsed: Answer<T> =
        serde_json::from_slice(answer).with_context(|| String::from_utf8_lossy(answer).into_owned())?;
    ensure!(parsed.errors.is_none(), "errors: {}", parsed.errors.unwrap_or_default());
    parsed.data.context("an answer without data")
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    send_message: Message,
}

#[derive(Deserialize)]
struct Message {
    seq: u64,
    status: String,
}

/// Returns the seq of a message that was just sent. Its status may already be COMMITTED.
pub fn sent_seq(answer: &[u8]) -> anyhow::Result<u64> {
    let message = data::<Sent>(answer)?.send_message;
    ensure!(["PENDING", "COMMITTED"].contains(&message.status.as_str()), "status {}", message.status);
    Ok(message.seq)
}

#[derive(Deserialize)]
struct Unread {
    unread: Total,
}

#[derive(Deserialize)]
struct Total {
    total: u64,
    stale: Option<bool>,
    dialogs: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    dialog_id: String,
    unread: u64,
}

/// Returns the counts of an answer to [`COUNTS`].
pub fn counts(answer: &[u8]) -> anyhow::Result<Counts> {
    let unread = data::<Unread>(answer)?.unread;
    ensure!(unread.stale != Some(true), "the counts are stale");
    let dialogs: BTreeMap<String, u64> =
        unread.dialogs.into_iter().map(|row| (row.dialog_id, row.unread)).collect();
    Ok(Counts { total: unread.total, dialogs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_an_error_or_a_failed_message_is_refused() {
        let sent = |status: &str| {
            format!(r#"{{"data":{{"sendMessage":{{"id":"a","seq":7,"status":"{status}"}}}}}}"#)
        };
        assert_eq!(sent_seq(sent("PENDING").as_bytes()).unwrap(), 7);
        assert!(sent_seq(sent("FAILED").as_bytes()).is_err());
        assert!(sent_seq(br#"{"data":null,"errors":[{"message":"no"}]}"#).is_err());
        assert!(sent_seq(b"busy").is_err());
    }

    #[test]
    fn counts_are_read_and_stale_ones_are_refused() {
        let rows = json!([{"dialogId": "d", "unread": 3}]);
        let answer = |stale| json!({"data": {"unread": {"total": 3, "stale": stale, "dialogs": rows}}});
        let read = counts(answer(false).to_string().as_bytes()).unwrap();
        assert_eq!(read, Counts { total: 3, dialogs: [("d".to_owned(), 3)].into() });
        assert!(counts(answer(true).to_string().as_bytes()).is_err());
    }
}
