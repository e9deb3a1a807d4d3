//! Deleting messages.

use proto::{
    MessageId,
    dialog::{DeleteRequest, LeaveRequest, Message, Status},
    events::{MessageDeleted, event::Kind},
    topic,
};
use tonic::Code;

use crate::{
    store::{names, outbox},
    world::{Person, code, worlds},
};

async fn delete(caller: &Person, id: &[u8]) -> Result<Message, tonic::Status> {
    Ok(caller.client().delete(DeleteRequest { message_id: id.to_vec() }).await?.into_inner())
}

#[tokio::test]
async fn a_deleted_message_stays_as_a_tombstone_without_words() {
    for world in worlds().await {
        let (a, b) = (world.person(), world.person());
        let dialog = a.direct(&b).await;
        let sent = a.send(&dialog.id, "words").await;
        let deleted = delete(&a, &sent.id).await.unwrap();
        assert!(deleted.deleted_at_us.unwrap() >= sent.created_at_us, "{}", world.name);
        let expected =
            Message { text: String::new(), deleted_at_us: deleted.deleted_at_us, version: 5, ..sent.clone() };
        assert_eq!(deleted, expected);
        assert_eq!(deleted.status(), Status::Pending);
        assert_eq!(b.history(&dialog.id).await, std::slice::from_ref(&deleted));
        let event = MessageDeleted {
            dialog_id: dialog.id.clone(),
            version: 5,
            message_id: sent.id.clone(),
            seq: 1,
            sender_id: a.id.bytes(),
        };
        assert_eq!(outbox(&world.db, topic::DIALOG).await.pop().unwrap().kind, Kind::MessageDeleted(event));
        let events = names(&world.db).await;
        assert_eq!(delete(&a, &sent.id).await.unwrap(), deleted, "once is enough");
        assert_eq!(names(&world.db).await, events);
    }
}

#[tokio::test]
async fn only_its_author_deletes_a_message_and_only_while_taking_part() {
    for world in worlds().await {
        let (a, b, c) = (world.person(), world.person(), world.person());
        let group = a.group(&[&b]).await;
        let (sent, gone) = (a.send(&group.id, "words").await, a.send(&group.id, "gone").await);
        delete(&a, &gone.id).await.unwrap();
        let before = names(&world.db).await;
        for (who, id) in [(&b, &sent.id), (&b, &gone.id), (&c, &sent.id), (&a, &MessageId::now().bytes())] {
            assert_eq!(code(delete(who, id).await), Code::NotFound, "{}", world.name);
        }
        assert_eq!(code(delete(&a, &[0; 3]).await), Code::InvalidArgument);
        assert_eq!(names(&world.db).await, before);
        a.client().leave(LeaveRequest { dialog_id: group.id.clone() }).await.unwrap();
        assert_eq!(code(delete(&a, &sent.id).await), Code::NotFound);
        assert_eq!(code(delete(&a, &gone.id).await), Code::NotFound);
        assert_eq!(b.message(&sent.id).await.unwrap().text, "words");
    }
}
