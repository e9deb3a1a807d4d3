//! Overdue sagas: the counters are asked directly.

use std::time::Duration;

use proto::{
    dialog::{DeleteRequest, Message, Status},
    topic,
};
use testkit::eventually;

use crate::{
    store::{outbox, publish},
    world::{Person, worlds, worlds_with},
};

async fn status(person: &Person, message: &Message) -> Status {
    person.message(&message.id).await.unwrap().status()
}

#[tokio::test]
async fn overdue_messages_are_settled_by_asking() {
    for world in worlds_with(Duration::ZERO).await {
        let (a, b) = (world.person(), world.person());
        let (dialog, group) = (a.direct(&b).await, a.group(&[&b]).await);
        let mut counted = Vec::new();
        for _ in 0..120 {
            counted.push(a.send(&dialog.id, "counted").await);
        }
        let (refused, open) = (b.send(&group.id, "refused").await, b.send(&group.id, "open").await);
        let deleted = b.send(&group.id, "deleted").await;
        b.client().delete(DeleteRequest { message_id: deleted.id.clone() }).await.unwrap();
        for message in counted.iter().chain([&deleted]) {
            world.ledger.count(&message.id);
        }
        world.ledger.refuse(&refused.id, "too many");
        world.ledger.set_away(true);
        publish_if_relayed(&world).await;
        let running = world.start();
        eventually("the counters were asked", || async { !world.ledger.asked().is_empty() }).await;
        assert_eq!(status(&a, &counted[0]).await, Status::Pending, "{}: an outage fails nothing", world.name);
        assert_eq!(status(&a, &refused).await, Status::Pending);
        world.ledger.set_away(false);
        eventually("all are settled", || async { status(&b, &deleted).await == Status::Committed }).await;
        for message in &counted {
            assert_eq!(status(&b, message).await, Status::Committed);
        }
        let failed = b.message(&refused.id).await.unwrap();
        assert_eq!((failed.status(), failed.failure_reason.as_deref()), (Status::Failed, Some("too many")));
        assert_eq!(status(&b, &open).await, Status::Pending, "what is not decided is asked about again");
        world.ledger.count(&open.id);
        eventually("it is", || async { status(&b, &open).await == Status::Committed }).await;
        running.stop().await;
        let asked = world.ledger.asked();
        let question = asked.iter().find(|asked| asked.message_id == refused.id).unwrap();
        assert_eq!((&question.dialog_id, question.seq, &question.sender_id), (&group.id, 1, &b.id.bytes()));
        assert_eq!((&question.transaction_id, question.version), (&refused.transaction_id, refused.version));
        assert!(world.ledger.authorizations().iter().all(|shown| *shown == world.token.header()));
        let mut versions: Vec<_> = outbox(&world.db, topic::DIALOG).await;
        versions.retain(|event| event.key == proto::DialogId::parse(&dialog.id).unwrap().to_string());
        let settled: Vec<_> = versions.iter().rev().take(120).rev().map(|event| event.version).collect();
        assert_eq!(settled, (124..244).collect::<Vec<_>>(), "each is one step of the dialog's version");
    }
}

/// On Postgres a message is asked about when the relay has sent it; here a test plays the relay.
async fn publish_if_relayed(world: &crate::world::World) {
    if world.name == "postgres" {
        publish(&world.db).await;
    }
}

#[tokio::test]
async fn what_was_not_published_or_is_young_is_not_asked_about() {
    for world in worlds_with(Duration::ZERO).await.into_iter().filter(|world| world.name == "postgres") {
        let (a, b) = (world.person(), world.person());
        let dialog = a.direct(&b).await;
        let published = a.send(&dialog.id, "published").await;
        publish(&world.db).await;
        let waiting = a.send(&dialog.id, "waiting").await;
        world.ledger.count(&published.id);
        world.ledger.count(&waiting.id);
        let running = world.start();
        eventually("one is settled", || async { status(&b, &published).await == Status::Committed }).await;
        assert_eq!(status(&b, &waiting).await, Status::Pending);
        assert!(world.ledger.asked().iter().all(|asked| asked.message_id == published.id));
        publish(&world.db).await;
        eventually("so is the other", || async { status(&b, &waiting).await == Status::Committed }).await;
        running.stop().await;
    }
    for world in worlds().await {
        let (a, b) = (world.person(), world.person());
        let young = a.send(&a.direct(&b).await.id, "young").await;
        world.ledger.count(&young.id);
        publish_if_relayed(&world).await;
        let running = world.start();
        running.stop().await;
        assert!(world.ledger.asked().is_empty(), "{}", world.name);
        assert_eq!(status(&b, &young).await, Status::Pending);
    }
}
