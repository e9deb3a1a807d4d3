//! Replaced past: a cut log is healed, and only evidence of this service's own raises the epoch.

use proto::{
    UserId,
    counter::{SeenRequest, SnapshotOf, SnapshotsRequest, Version},
    dialog::{Change, ChangesSinceReply, DialogVersion, change::Row},
    events::event::Kind,
    topic,
};
use testkit::eventually;
use tonic::Code;

use crate::{
    app::{TestApp, test_apps},
    dialog::SimulatedDialog,
    row_of,
};

#[tokio::test]
async fn a_cut_log_is_healed_and_counts_are_stale_until_then() {
    for app in test_apps().await {
        let ada = UserId::now();
        let bob = UserId::now();
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob]).await;
        let mut quiet = SimulatedDialog::create(&app, &[ada, bob]).await;
        let sent = [(); 4].map(|()| dialog.message(ada));
        let last = quiet.message(ada);
        app.publish(topic::DIALOG, vec![Kind::MessageSent(sent[0].clone())]).await;
        app.wait_for_total(bob, 1).await;
        let before = app.unread(bob, None).await.unwrap();
        assert!(!before.stale);
        let lost = sent[1..].iter().cloned().map(Kind::MessageSent);
        let app = app.restart_with_cut_log(lost.chain([Kind::MessageSent(last)]).collect()).await;

        // The dialog service does not answer yet, so it is not known who missed what.
        app.wait_for_total(bob, 2).await;
        let cut = app.unread(bob, None).await.unwrap();
        assert!(cut.stale && cut.rows.iter().all(|row| row.stale), "{cut:?}");
        assert!(cut.version.unwrap().epoch > before.version.unwrap().epoch, "clients get a snapshot");
        assert!(snapshot_is_stale(&app, bob).await);

        let changes = sent
            .iter()
            .map(|sent| Change { version: sent.version, row: Some(Row::Message(row_of(sent, false))) });
        app.set_changes(ChangesSinceReply { head: dialog.version, changes: changes.collect() });
        let version = |dialog: &SimulatedDialog| DialogVersion {
            dialog_id: dialog.id.bytes(),
            version: dialog.version,
        };
        app.set_versions(vec![version(&dialog), version(&quiet)]);
        app.wait_for_total(bob, 5).await;
        eventually("the counts are right and say so", || async {
            !app.unread(bob, None).await.unwrap().stale
        })
        .await;
        let healed = app.unread(bob, None).await.unwrap();
        assert!(healed.total == 5 && healed.rows.iter().all(|row| !row.stale), "{healed:?}");
        assert!(!snapshot_is_stale(&app, bob).await);
        let first_lost = sent[1].version;
        assert_eq!(app.changes_since_calls(), [(dialog.id, first_lost - 1)], "the other one missed nothing");
        app.shut_down().await;
    }
}

async fn snapshot_is_stale(app: &TestApp, user_id: UserId) -> bool {
    let of = vec![SnapshotOf { user_id: user_id.bytes(), since: None }];
    let mut service = app.client(&app.service_token());
    let reply = service.snapshots(SnapshotsRequest { of }).await.expect("an answer");
    reply.into_inner().snapshots[0].stale
}

#[tokio::test]
async fn a_gap_makes_the_counts_of_its_members_stale() {
    for app in test_apps().await {
        let [ada, bob, cleo] = [(); 3].map(|()| UserId::now());
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob]).await;
        let _other = SimulatedDialog::create(&app, &[ada, cleo]).await;
        let lost = dialog.message(ada);
        let mut published = app.tail(&[topic::UNREAD]).await;
        app.publish(topic::DIALOG, vec![Kind::MessageSent(dialog.message(ada))]).await;
        app.wait_for_total(bob, 1).await;
        // The reply has no changes yet, and a head below the gap, so the repair fails.
        let stale = app.unread(bob, None).await.unwrap();
        assert!(stale.stale && stale.rows[0].stale, "{stale:?}");
        assert!(!app.unread(cleo, None).await.unwrap().stale, "she is not in the dialog");
        let change = Change { version: lost.version, row: Some(Row::Message(row_of(&lost, true))) };
        app.set_changes(ChangesSinceReply { head: dialog.version, changes: vec![change] });
        eventually("the gap is closed", || async { !app.unread(bob, None).await.unwrap().stale }).await;
        // The count did not change, but subscribers learn that it is right.
        let mut flags = Vec::new();
        while !flags.ends_with(&[true, false]) {
            for record in published.next().await.unwrap().records {
                match Kind::decode(&record.payload) {
                    Some(Kind::UnreadChanged(change)) if change.user_id == bob.bytes() => {
                        assert_eq!(change.rows[0].stale, change.stale, "{change:?}");
                        flags.push(change.stale);
                    }
                    _ => {}
                }
            }
        }
        app.shut_down().await;
    }
}

#[tokio::test]
async fn only_a_version_that_a_service_has_received_raises_the_epoch() {
    for app in test_apps().await {
        let ada = UserId::now();
        let bob = UserId::now();
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob]).await;
        app.publish(topic::DIALOG, vec![Kind::MessageSent(dialog.message(ada))]).await;
        app.wait_for_total(bob, 1).await;
        let version = app.unread(bob, None).await.unwrap().version.unwrap();
        let future = Version { number: version.number + 5, ..version };
        let epoch = async || app.unread(bob, None).await.unwrap().version.unwrap().epoch;

        let refused = app.unread(bob, Some(future)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "a client may have invented it");
        let seen = async |authorization: &str, version| {
            let request = SeenRequest { user_id: bob.bytes(), version: Some(version) };
            app.client(authorization).seen(request).await.map(|reply| reply.into_inner().epoch)
        };
        seen(&app.token_of(bob), future).await.unwrap_err();
        let service = app.service_token();
        let foreign = Version { epoch: version.epoch + 1, number: 9 };
        for known in [version, Version { number: 0, ..version }, foreign] {
            assert_eq!(seen(&service, known).await.unwrap(), version.epoch);
        }
        assert_eq!(epoch().await, version.epoch);

        let raised = seen(&service, future).await.unwrap();
        assert!(raised > 1_700_000_000, "the unix milliseconds of the database's clock: {raised}");
        assert_eq!(seen(&service, future).await.unwrap(), raised, "raised once");
        assert_eq!(epoch().await, raised, "whatever the cache has");
        let after = app.unread(bob, Some(future)).await.unwrap();
        assert_eq!((after.version.unwrap().number, after.total), (version.number, 1), "the past is void");
        let of = vec![SnapshotOf { user_id: bob.bytes(), since: Some(version) }];
        let mut client = app.client(&service);
        let reply = client.snapshots(SnapshotsRequest { of }).await.unwrap().into_inner();
        assert!(!reply.snapshots[0].current, "the same number of another epoch is another version");
        app.shut_down().await;
    }
}
