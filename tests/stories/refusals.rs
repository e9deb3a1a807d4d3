//! Refusals by the counter: a message whose number belongs to another one in its ledger, and
//! changes that a rule of the database refuses although they lower a count.

use db::{Db, query};
use serde_json::json;
use testkit::eventually;

use crate::{
    app::App, caller::Caller, log_recorder::LogRecorder, oracle, socket_client::SocketClient, stack::Stack,
};

const STATE: &str = "query($id: ID!) { message(id: $id) { status failureReason text } }";

async fn execute(db: &Db, statement: &'static str) {
    let mut tx = db.begin().await.unwrap();
    query(statement).execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_message_whose_number_is_taken_fails_with_a_reason_and_counts_nothing() {
    let app = App::start().await;
    let ann = Caller::register(&app, "ann").await;
    let bob = Caller::register(&app, "bob").await;
    let dialog = ann.create_group(&[&bob], "two").await;
    ann.send(&dialog, "first").await;
    eventually("it is counted", || async { bob.total().await == 1 }).await;
    let (folder, _) = app.stop().await;
    // As after a restore of the dialog service alone: the counter has counted a second message.
    let counter = Db::open_file(&folder.path().join("counter.db")).await.unwrap();
    execute(
        &counter,
        "insert into ledger (dialog_id, seq, message_id, author_id, state)
         select dialog_id, 2, '00000000-0000-0000-0000-000000000001', author_id, state from ledger",
    )
    .await;
    execute(&counter, "update member_counter set unread = 2 where unread = 1").await;
    counter.close().await;
    let app = App::start_in(folder, &[("SAGA_DEADLINE", "1s")]).await;
    let [ann, bob] = [ann.at(&app), bob.at(&app)];
    let mut phone = SocketClient::watch_unread(&bob, None).await;
    let second = ann.send(&dialog, "second").await;
    assert_eq!(second["seq"], 2);
    eventually("its author sees the reason", || async {
        let message = ann.data(STATE, json!({"id": second["id"]})).await["message"].take();
        message["status"] == "FAILED"
            && message["failureReason"] == "another message has its number in the dialog"
            && message["text"] == "second"
    })
    .await;
    assert_eq!(phone.until_total(1).await.last(), Some(&1), "the lost message counts no more");
    let third = ann.send(&dialog, "third").await;
    eventually("the next message commits", || async {
        ann.data(STATE, json!({"id": third["id"]})).await["message"]["status"] == "COMMITTED"
    })
    .await;
    assert_eq!((bob.total().await, oracle::history(&bob, &dialog).await.len()), (2, 2));
    let asked = app.metric("sagas_asked_total").await;
    assert!(asked >= 1.0, "{asked}");
    assert_eq!(app.metric("dead_letters_total").await, 1.0, "the event, the settlement and its failure");
    app.stop().await;
}

/// Runs the stack with a constraint that refuses every count below one. For `engines`.
pub async fn a_rule_delays_what_lowers_a_count() {
    let Some(stack) = Stack::start(&[]).await else { return };
    let log = LogRecorder::start(stack.kafka_url()).await;
    let ann = Caller::register(&stack, "ann").await;
    let bob = Caller::register(&stack, "bob").await;
    let cleo = Caller::register(&stack, "cleo").await;
    let dialog = ann.create_group(&[&bob, &cleo], "three").await;
    let other = ann.create_group(&[&bob], "two").await;
    let first = ann.send(&dialog, "first").await;
    ann.send(&other, "hello").await;
    for (caller, total) in [(&bob, 2), (&cleo, 1)] {
        eventually("it is counted", || async { caller.total().await == total }).await;
    }
    let counter = stack.database("counter").await;
    let rule = "alter table member_counter add constraint refuse check (unread >= 1) not valid";
    execute(&counter, rule).await;
    let delete = "mutation($id: ID!) { deleteMessage(id: $id) { deletedAt } }";
    ann.data(delete, json!({"id": first["id"]})).await;
    let read = "mutation($input: MarkReadInput!) { markRead(input: $input) { total } }";
    let code = bob.error_code(read, json!({"input": {"dialogId": other}})).await;
    assert_eq!(code, "UNAVAILABLE", "a read is not the user's mistake");
    let leave = "mutation($id: ID!) { leaveDialog(dialogId: $id) }";
    drop(cleo.execute(leave, json!({"id": dialog})).await);
    eventually("the deletion is tried again and again", || async {
        stack.metric("counter", "counter_blocked_total").await >= Some(5.0)
    })
    .await;
    assert_eq!(bob.total().await, 2, "nothing is skipped");
    execute(&counter, "alter table member_counter drop constraint refuse").await;
    for (caller, total) in [(&bob, 1), (&cleo, 0)] {
        eventually("the counts are exact", || async { caller.total().await == total }).await;
    }
    assert_eq!(bob.data(read, json!({"input": {"dialogId": other}})).await["markRead"]["total"], 0);
    oracle::assert_engines_match_kernel(&stack, &log).await;
    for caller in [&ann, &bob, &cleo] {
        stack.wait_for_cache(caller).await;
    }
}
