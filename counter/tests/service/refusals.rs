//! Events that the counter cannot apply: messages that contradict the ledger, and changes that a rule of
//! the database refuses although only a new message can be refused.

use proto::{
    MessageId, UserId,
    counter::{LeaveRequest, Outcome, SettleRequest},
    events::{MessageFailed, MessageSent, event::Kind},
    topic,
};
use testkit::eventually;
use tonic::Code;

use crate::{
    app::{TestApp, test_apps},
    dialog::SimulatedDialog,
};

/// A rule that refuses every update to fewer unread messages, as an operator could add it.
const REFUSE_LESS_SQLITE: &str = "create trigger refuse before update on member_counter
    when new.unread < old.unread begin select raise(abort, 'refuse'); end";
/// `not valid` leaves the rows of the members alone that have read everything.
const REFUSE_LESS_POSTGRES: &str =
    "alter table member_counter add constraint refuse check (unread >= 1) not valid";

async fn settle(app: &TestApp, message: &MessageSent) -> Outcome {
    let request = SettleRequest { messages: vec![message.clone()] };
    let reply = app.client(&app.service_token()).settle(request).await.expect("an answer");
    reply.into_inner().outcomes.remove(0)
}

/// Returns the errors of all dead letters of the events published so far.
///
/// Publishes an event that cannot be decoded, and another one when the first is a dead letter: the dead
/// letters of one batch have no order, but those of an earlier batch come first.
async fn dead_letters(app: &TestApp, dead: &mut events::Tail) -> Vec<String> {
    let mut errors = Vec::new();
    for _ in 0..2 {
        app.publish_bytes(topic::DIALOG, b"\xff\xff".to_vec()).await;
        let mut is_marked = false;
        while !is_marked {
            for record in dead.next().await.expect("the log can be read").records {
                let Some(Kind::DeadLetter(letter)) = Kind::decode(&record.payload) else {
                    panic!("{record:?}")
                };
                let is_mark = letter.error.starts_with("unknown or malformed");
                is_marked |= is_mark;
                errors.extend((!is_mark).then_some(letter.error));
            }
        }
    }
    errors
}

#[tokio::test]
async fn a_divergent_message_fails_with_one_dead_letter_and_its_number_counts_nothing() {
    for app in test_apps().await {
        let [ada, bob, cleo] = [(); 3].map(|()| UserId::now());
        let mut dead = app.tail(&[topic::DEAD]).await;
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob, cleo]).await;
        // As after a restore of the dialog service: it has given the number to another message.
        let lost = dialog.message(ada);
        let kept = dialog.message(ada);
        let events = [&lost, &kept].map(|sent| Kind::MessageSent(sent.clone()));
        app.publish(topic::DIALOG, events.into()).await;
        app.wait_for_total(bob, 2).await;
        let divergent = MessageSent {
            message_id: MessageId::now().bytes(),
            version: dialog.next_version(),
            sender_id: cleo.bytes(),
            ..lost.clone()
        };
        let events = vec![Kind::MessageSent(divergent.clone()); 2];
        app.publish(topic::DIALOG, events).await;
        assert_eq!(dead_letters(&app, &mut dead).await.len(), 1, "the repeated event adds none");
        assert_eq!(app.unread(bob, None).await.unwrap().total, 2, "the log alone decides nothing");
        for _ in 0..3 {
            let outcome = settle(&app, &divergent).await;
            assert!(!outcome.counted);
            let reason = outcome.refused.expect("its author gets a reason");
            assert_eq!(reason, "another message has its number in the dialog");
        }
        app.wait_for_total(bob, 1).await;
        app.wait_for_total(cleo, 1).await;
        let failed = Kind::MessageFailed(MessageFailed {
            dialog_id: dialog.id.bytes(),
            version: dialog.next_version(),
            message_id: divergent.message_id.clone(),
            seq: divergent.seq,
            sender_id: divergent.sender_id.clone(),
        });
        let last = Kind::MessageSent(dialog.message(ada));
        app.publish(topic::DIALOG, vec![failed, Kind::MessageSent(lost), last]).await;
        app.wait_for_total(bob, 2).await;
        assert_eq!(dead_letters(&app, &mut dead).await, Vec::<String>::new(), "one in all");
        app.shut_down().await;
    }
}

#[tokio::test]
async fn a_rule_of_the_database_delays_what_lowers_a_count_and_loses_nothing() {
    for app in test_apps().await {
        let [ada, bob, cleo, dora] = [(); 4].map(|()| UserId::now());
        let mut dead = app.tail(&[topic::DEAD]).await;
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob, cleo, dora]).await;
        let first = dialog.message(ada);
        app.publish(topic::DIALOG, vec![Kind::MessageSent(first.clone())]).await;
        for user in [bob, cleo, dora] {
            app.wait_for_total(user, 1).await;
        }
        app.execute(REFUSE_LESS_SQLITE, REFUSE_LESS_POSTGRES).await;
        let blocked = app.metric("counter_blocked_total");
        let refused = app.mark_read(bob, dialog.id, 1).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "a read is never refused: {refused}");
        let version = dialog.next_version();
        let leave = LeaveRequest { dialog_id: dialog.id.bytes(), user_id: dora.bytes(), version };
        let refused = app.client(&app.service_token()).leave(leave.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "nor is a leave: {refused}");
        let second = dialog.message(ada);
        let events = vec![dialog.delete(&first), dialog.leave(cleo), Kind::MessageSent(second)];
        app.publish(topic::DIALOG, events).await;
        eventually("the deletion is tried again and again", || async {
            app.metric("counter_blocked_total") >= blocked + 5.0
        })
        .await;
        assert_eq!(app.unread(bob, None).await.unwrap().total, 1, "nothing is skipped");
        app.execute("drop trigger refuse", "alter table member_counter drop constraint refuse").await;
        app.wait_for_total(cleo, 0).await;
        app.wait_for_total(bob, 1).await;
        app.client(&app.service_token()).leave(leave).await.unwrap();
        app.wait_for_total(dora, 0).await;
        assert_eq!(app.mark_read(bob, dialog.id, 2).await.unwrap().total, 0);
        assert_eq!(dead_letters(&app, &mut dead).await, Vec::<String>::new());
        app.shut_down().await;
    }
}

#[tokio::test]
async fn a_message_that_a_rule_blocks_does_not_delay_the_settlement_of_others() {
    for app in test_apps().await {
        let [ada, bob] = [(); 2].map(|()| UserId::now());
        let mut dead = app.tail(&[topic::DEAD]).await;
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob]).await;
        app.publish(topic::DIALOG, vec![Kind::MessageSent(dialog.message(ada))]).await;
        app.wait_for_total(bob, 1).await;
        app.execute(REFUSE_LESS_SQLITE, REFUSE_LESS_POSTGRES).await;
        let mut other = SimulatedDialog::unpublished();
        // His answer reads ada's message, which the rule refuses.
        let answer = MessageSent { read_up_to: 1, ..dialog.message(bob) };
        let messages = vec![answer.clone(), other.message(bob)];
        for _ in 0..2 {
            let request = SettleRequest { messages: messages.clone() };
            let mut client = app.client(&app.service_token());
            let outcomes = client.settle(request).await.unwrap().into_inner().outcomes;
            let expected = [false, true].map(|counted| Outcome { counted, refused: None });
            assert_eq!(outcomes, expected, "the first stays pending");
        }
        app.execute("drop trigger refuse", "alter table member_counter drop constraint refuse").await;
        assert!(settle(&app, &answer).await.counted);
        app.wait_for_total(bob, 0).await;
        app.wait_for_total(ada, 1).await;
        assert_eq!(dead_letters(&app, &mut dead).await, Vec::<String>::new());
        app.shut_down().await;
    }
}

#[tokio::test]
async fn a_wrong_count_does_not_refuse_the_deletion_that_would_make_it_negative() {
    for app in test_apps().await {
        let [ada, bob, cleo] = [(); 3].map(|()| UserId::now());
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob, cleo]).await;
        let first = dialog.message(ada);
        let events = vec![Kind::MessageSent(first.clone()), Kind::MessageSent(dialog.message(ada))];
        app.publish(topic::DIALOG, events).await;
        app.wait_for_total(bob, 2).await;
        app.wait_for_total(cleo, 2).await;
        // Someone has written to the table by hand.
        app.execute("update member_counter set unread = 0", "update member_counter set unread = 0").await;
        app.publish(topic::DIALOG, vec![dialog.delete(&first)]).await;
        app.wait_for_total(bob, 1).await;
        app.wait_for_total(cleo, 1).await;
        app.shut_down().await;
    }
}
