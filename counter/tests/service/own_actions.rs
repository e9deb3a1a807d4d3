//! What a user's own actions do to the user's own counts: answering and leaving.

use proto::{
    UserId,
    counter::{LeaveRequest, RowsRequest},
    events::{MessageSent, event::Kind},
    topic,
};
use tonic::Code;

use crate::{app::test_apps, dialog::SimulatedDialog};

#[tokio::test]
async fn an_answer_reads_what_its_author_had_seen_and_not_what_arrived_since() {
    for app in test_apps().await {
        let ada = UserId::now();
        let bob = UserId::now();
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob]).await;
        let dialog_id = dialog.id;
        let sent = (0..3).map(|_| Kind::MessageSent(dialog.message(ada))).collect();
        app.publish(topic::DIALOG, sent).await;
        app.wait_for_total(bob, 3).await;
        let row_of = async |user| {
            let rows = RowsRequest { dialog_ids: vec![dialog_id.bytes()], at_least: None };
            let mut client = app.client(&app.token_of(user));
            client.rows(rows).await.unwrap().into_inner().rows.pop().unwrap()
        };
        assert_eq!(row_of(ada).await.read_seq, 3, "own messages with nothing between");
        let before = app.unread(bob, None).await.unwrap().version.unwrap().number;
        // Bob had seen the second message; the third arrived while he wrote.
        let answer = MessageSent { read_up_to: 2, ..dialog.message(bob) };
        app.publish(topic::DIALOG, vec![Kind::MessageSent(answer)]).await;
        app.wait_for_total(bob, 1).await;
        let after = app.unread(bob, None).await.unwrap();
        assert_eq!(after.version.unwrap().number, before + 1, "counted and read in one transaction");
        assert_eq!(row_of(bob).await.read_seq, 2, "another's message lies between");
        // He had seen all of it: the pointer steps over his own messages before and after.
        let answer = MessageSent { read_up_to: 3, ..dialog.message(bob) };
        app.publish(topic::DIALOG, vec![Kind::MessageSent(answer)]).await;
        app.wait_for_total(bob, 0).await;
        app.wait_for_total(ada, 2).await;
        assert_eq!(row_of(bob).await.read_seq, 5);
        app.shut_down().await;
    }
}

#[tokio::test]
async fn a_leave_is_applied_before_its_event_which_then_changes_nothing() {
    for app in test_apps().await {
        let ada = UserId::now();
        let bob = UserId::now();
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob]).await;
        app.publish(topic::DIALOG, vec![Kind::MessageSent(dialog.message(ada))]).await;
        app.wait_for_total(bob, 1).await;
        let event = dialog.leave(bob);
        let dialog_id = dialog.id;
        let left_at = dialog.version;
        let leave = async |version: i64| {
            let request = LeaveRequest { dialog_id: dialog_id.bytes(), user_id: bob.bytes(), version };
            app.client(&app.service_token()).leave(request).await
        };
        for version in [0, -1, i64::MAX] {
            assert_eq!(leave(version).await.unwrap_err().code(), Code::InvalidArgument, "{version}");
        }
        let left = leave(left_at).await.unwrap().into_inner().version;
        // Without a version: the cache must not have the former counts either.
        let now = app.unread(bob, None).await.unwrap();
        assert_eq!((now.total, now.version), (0, left));
        assert_eq!(leave(left_at).await.unwrap().into_inner().version, left, "safe to repeat");
        // The message after the event shows that the event is applied.
        let after = dialog.message(bob);
        app.publish(topic::DIALOG, vec![event, Kind::MessageSent(after)]).await;
        app.wait_for_total(ada, 1).await;
        let now = app.unread(bob, None).await.unwrap();
        assert_eq!((now.total, now.version), (0, left), "no version step");
        assert_eq!(leave(1).await.unwrap().into_inner().version, left, "an older leave changes nothing");
        app.shut_down().await;
    }
}
