//! Sweeper: settles overdue messages by calling the counter.

use std::time::Duration;

use proto::{
    dialog::{DeleteRequest, Message, Status},
    topic,
};
use testkit::eventually;

use crate::{
    fixture::{TestUser, fixtures, fixtures_with},
    store::{mark_published, outbox},
};

async fn status(user: &TestUser, message: &Message) -> Status {
    user.message(&message.id).await.unwrap().status()
}

#[tokio::test]
async fn overdue_messages_are_settled_by_calling_the_counter() {
    for fixture in fixtures_with(Duration::ZERO).await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        let group = a.group(&[&b]).await;
        let mut counted = Vec::new();
        for _ in 0..120 {
            counted.push(a.send(&dialog.id, "counted").await);
        }
        let refused = b.send(&group.id, "refused").await;
        let undecided = b.send(&group.id, "undecided").await;
        let deleted = b.send(&group.id, "deleted").await;
        b.client().delete(DeleteRequest { message_id: deleted.id.clone() }).await.unwrap();
        for message in counted.iter().chain([&deleted]) {
            fixture.counter.count(&message.id);
        }
        fixture.counter.refuse(&refused.id, "too many");
        fixture.counter.set_unavailable(true);
        publish_if_relayed(&fixture).await;
        let background = fixture.start_background();
        eventually("the counter was called", || async { !fixture.counter.requested().is_empty() }).await;
        assert_eq!(
            status(&a, &counted[0]).await,
            Status::Pending,
            "{}: an outage fails no message",
            fixture.name
        );
        assert_eq!(status(&a, &refused).await, Status::Pending);
        fixture.counter.set_unavailable(false);
        eventually("all messages are settled", || async { status(&b, &deleted).await == Status::Committed })
            .await;
        for message in &counted {
            assert_eq!(status(&b, message).await, Status::Committed);
        }
        let failed = b.message(&refused.id).await.unwrap();
        assert_eq!((failed.status(), failed.failure_reason.as_deref()), (Status::Failed, Some("too many")));
        assert_eq!(status(&b, &undecided).await, Status::Pending, "an undecided message stays pending");
        fixture.counter.count(&undecided.id);
        eventually("it is settled later", || async { status(&b, &undecided).await == Status::Committed })
            .await;
        background.stop().await;
        let requested = fixture.counter.requested();
        let request = requested.iter().find(|request| request.message_id == refused.id).unwrap();
        assert_eq!((&request.dialog_id, request.seq, &request.sender_id), (&group.id, 1, &b.id.bytes()));
        assert_eq!((&request.transaction_id, request.version), (&refused.transaction_id, refused.version));
        assert!(
            fixture
                .counter
                .authorizations()
                .iter()
                .all(|authorization| *authorization == fixture.token.header())
        );
        let mut versions: Vec<_> = outbox(&fixture.db, topic::DIALOG).await;
        versions.retain(|event| event.key == proto::DialogId::parse(&dialog.id).unwrap().to_string());
        let settled: Vec<_> = versions.iter().rev().take(120).rev().map(|event| event.version).collect();
        assert_eq!(
            settled,
            (124..244).collect::<Vec<_>>(),
            "each event increments the dialog's version by one"
        );
    }
}

/// On Postgres the sweeper ignores messages that the relay has not published: stands in for the relay.
async fn publish_if_relayed(fixture: &crate::fixture::Fixture) {
    if fixture.name == "postgres" {
        mark_published(&fixture.db).await;
    }
}

#[tokio::test]
async fn unpublished_and_recent_messages_are_not_swept() {
    for fixture in
        fixtures_with(Duration::ZERO).await.into_iter().filter(|fixture| fixture.name == "postgres")
    {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        let published = a.send(&dialog.id, "published").await;
        mark_published(&fixture.db).await;
        let unpublished = a.send(&dialog.id, "unpublished").await;
        fixture.counter.count(&published.id);
        fixture.counter.count(&unpublished.id);
        let background = fixture.start_background();
        eventually("the published message is settled", || async {
            status(&b, &published).await == Status::Committed
        })
        .await;
        assert_eq!(status(&b, &unpublished).await, Status::Pending);
        assert!(fixture.counter.requested().iter().all(|request| request.message_id == published.id));
        mark_published(&fixture.db).await;
        eventually("the other is settled once published", || async {
            status(&b, &unpublished).await == Status::Committed
        })
        .await;
        background.stop().await;
    }
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let recent = a.send(&a.direct(&b).await.id, "recent").await;
        fixture.counter.count(&recent.id);
        publish_if_relayed(&fixture).await;
        let background = fixture.start_background();
        background.stop().await;
        assert!(fixture.counter.requested().is_empty(), "{}", fixture.name);
        assert_eq!(status(&b, &recent).await, Status::Pending);
    }
}
