//! Deletion of messages.

use proto::{
    MessageId,
    dialog::{DeleteRequest, LeaveRequest, Message, Status},
    events::{MessageDeleted, event::Kind},
    topic,
};
use tonic::Code;

use crate::{
    fixture::{TestUser, code, fixtures},
    store::{event_names, outbox},
};

async fn delete(caller: &TestUser, id: &[u8]) -> Result<Message, tonic::Status> {
    Ok(caller.client().delete(DeleteRequest { message_id: id.to_vec() }).await?.into_inner())
}

#[tokio::test]
async fn a_deleted_message_stays_as_a_tombstone_without_text() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        let sent = a.send(&dialog.id, "text").await;
        let deleted = delete(&a, &sent.id).await.unwrap();
        assert!(deleted.deleted_at_us.unwrap() >= sent.created_at_us, "{}", fixture.name);
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
        assert_eq!(outbox(&fixture.db, topic::DIALOG).await.pop().unwrap().kind, Kind::MessageDeleted(event));
        let events = event_names(&fixture.db).await;
        assert_eq!(delete(&a, &sent.id).await.unwrap(), deleted, "a repeated deletion changes nothing");
        assert_eq!(event_names(&fixture.db).await, events);
    }
}

#[tokio::test]
async fn only_the_author_can_delete_a_message_and_only_as_a_participant() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let c = fixture.user();
        let group = a.group(&[&b]).await;
        let sent = a.send(&group.id, "text").await;
        let deleted = a.send(&group.id, "deleted").await;
        delete(&a, &deleted.id).await.unwrap();
        let before = event_names(&fixture.db).await;
        for (user, id) in [(&b, &sent.id), (&b, &deleted.id), (&c, &sent.id), (&a, &MessageId::now().bytes())]
        {
            assert_eq!(code(delete(user, id).await), Code::NotFound, "{}", fixture.name);
        }
        assert_eq!(code(delete(&a, &[0; 3]).await), Code::InvalidArgument);
        assert_eq!(event_names(&fixture.db).await, before);
        a.client().leave(LeaveRequest { dialog_id: group.id.clone() }).await.unwrap();
        assert_eq!(code(delete(&a, &sent.id).await), Code::NotFound);
        assert_eq!(code(delete(&a, &deleted.id).await), Code::NotFound);
        assert_eq!(b.message(&sent.id).await.unwrap().text, "text");
    }
}
