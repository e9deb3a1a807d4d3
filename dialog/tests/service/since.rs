//! Changes since a version: `MessagesSince` for clients, `ChangesSince` for services, `Live` for
//! gateways.

use proto::{
    DialogId, MessageId, UserId,
    dialog::{
        AddParticipantsRequest, ChangesSinceRequest, DeleteRequest, LeaveRequest, LiveRequest,
        MessagesSinceReply, MessagesSinceRequest, Version, change::Row,
    },
};
use tonic::{Code, Status};

use crate::{
    fixture::{TestUser, code, fixtures},
    store::increment_epoch,
};

async fn since(
    caller: &TestUser,
    dialog: &[u8],
    since: Option<(i64, i64)>,
) -> Result<MessagesSinceReply, Status> {
    let since = since.map(|(epoch, number)| Version { epoch, number });
    let request = MessagesSinceRequest { dialog_id: dialog.to_vec(), since };
    Ok(caller.client().messages_since(request).await?.into_inner())
}

fn head(number: i64) -> Option<Version> {
    Some(Version { epoch: 1, number })
}

#[tokio::test]
async fn a_replay_has_the_current_state_of_changed_messages() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        let empty = MessagesSinceReply { head: head(3), ..MessagesSinceReply::default() };
        assert_eq!(since(&b, &dialog.id, None).await.unwrap(), empty, "{}", fixture.name);
        assert_eq!(since(&b, &dialog.id, Some((1, 0))).await.unwrap(), empty);
        let one = a.send(&dialog.id, "one").await;
        let two = a.send(&dialog.id, "two").await;
        let delete = DeleteRequest { message_id: one.id.clone() };
        let one = a.client().delete(delete).await.unwrap().into_inner();
        let all =
            MessagesSinceReply { head: head(6), messages: vec![two.clone(), one.clone()], reset: false };
        for number in [0, 1, 3, 4] {
            assert_eq!(since(&b, &dialog.id, Some((1, number))).await.unwrap(), all, "{number}");
        }
        assert_eq!(
            since(&b, &dialog.id, Some((0, 0))).await.unwrap(),
            all,
            "number 0 is the beginning in every epoch"
        );
        assert_eq!(since(&b, &dialog.id, Some((1, 5))).await.unwrap().messages, [one]);
        let nothing = MessagesSinceReply { head: head(6), ..MessagesSinceReply::default() };
        assert_eq!(since(&b, &dialog.id, Some((1, 6))).await.unwrap(), nothing);
        assert_eq!(since(&b, &dialog.id, None).await.unwrap(), nothing);
    }
}

#[tokio::test]
async fn a_version_of_another_epoch_or_in_the_future_is_reset() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        a.send(&dialog.id, "one").await;
        let reset = MessagesSinceReply { head: head(4), messages: Vec::new(), reset: true };
        for version in [(1, 5), (2, 1), (0, 1), (1, i64::MAX), (i64::MAX, 4)] {
            assert_eq!(
                since(&b, &dialog.id, Some(version)).await.unwrap(),
                reset,
                "{}: {version:?}",
                fixture.name
            );
        }
        for version in [(1, -1), (-1, 1)] {
            assert_eq!(code(since(&b, &dialog.id, Some(version)).await), Code::InvalidArgument);
        }
        assert_eq!(code(since(&b, b"short", None).await), Code::InvalidArgument);
        increment_epoch(&fixture.db).await;
        let restored = since(&b, &dialog.id, Some((1, 3))).await.unwrap();
        assert_eq!((restored.reset, restored.head), (true, Some(Version { epoch: 2, number: 4 })));
        assert_eq!(since(&b, &dialog.id, Some((2, 3))).await.unwrap().messages.len(), 1);
    }
}

#[tokio::test]
async fn more_than_1000_changes_are_a_reset() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        for _ in 0..1_001 {
            a.send(&dialog.id, "text").await;
        }
        let all = since(&b, &dialog.id, Some((1, 0))).await.unwrap();
        assert!(all.reset && all.messages.is_empty(), "{}", fixture.name);
        assert!(since(&b, &dialog.id, Some((1, 3))).await.unwrap().reset);
        let most = since(&b, &dialog.id, Some((1, 4))).await.unwrap();
        assert_eq!((most.reset, most.messages.len()), (false, 1_000));
        assert!(most.messages.is_sorted_by_key(|message| message.version));
    }
}

#[tokio::test]
async fn changed_rows_are_returned_by_version() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let c = fixture.user();
        let group = a.group(&[&b]).await;
        let one = a.send(&group.id, "one").await;
        let add = AddParticipantsRequest { dialog_id: group.id.clone(), user_ids: vec![c.id.bytes()] };
        a.client().add_participants(add).await.unwrap();
        b.client().leave(LeaveRequest { dialog_id: group.id.clone() }).await.unwrap();
        a.client().delete(DeleteRequest { message_id: one.id.clone() }).await.unwrap();
        let changes = |since, limit| {
            let mut service = fixture.service_client();
            let dialog_id = group.id.clone();
            async move {
                let request = ChangesSinceRequest { dialog_id, since, limit };
                service.changes_since(request).await.unwrap().into_inner()
            }
        };
        let all = changes(0, 1_000).await;
        assert_eq!(all.head, 7, "{}", fixture.name);
        let versions: Vec<_> = all.changes.iter().map(|change| change.version).collect();
        assert_eq!(versions, [2, 5, 6, 7], "a row appears once, at its last change");
        let Some(Row::Membership(left)) = &all.changes[2].row else { panic!("{all:?}") };
        assert_eq!((&left.user_id, left.joined_seq, left.left), (&b.id.bytes(), 0, true));
        let Some(Row::Membership(joined)) = &all.changes[1].row else { panic!("{all:?}") };
        assert_eq!((&joined.user_id, joined.joined_seq, joined.left), (&c.id.bytes(), 1, false));
        let Some(Row::Message(message)) = &all.changes[3].row else { panic!("{all:?}") };
        assert_eq!((&message.message_id, message.seq, &message.sender_id), (&one.id, 1, &a.id.bytes()));
        assert_eq!(
            (&message.transaction_id, message.created_at_us),
            (&one.transaction_id, one.created_at_us)
        );
        assert!(message.deleted && message.status() == proto::dialog::Status::Pending);
        let mut paged = Vec::new();
        loop {
            let page =
                changes(paged.last().map_or(0, |change: &proto::dialog::Change| change.version), 1).await;
            if page.changes.is_empty() {
                break;
            }
            paged.extend(page.changes);
        }
        assert_eq!(paged, all.changes);
        let nothing = changes(7, 1).await;
        assert_eq!((nothing.head, nothing.changes.len()), (7, 0));
    }
}

#[tokio::test]
async fn only_services_can_call_changes_since_and_live() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog_id = a.direct(&b).await.id;
        let changes = ChangesSinceRequest { dialog_id: dialog_id.clone(), since: 0, limit: 1 };
        let live = LiveRequest { dialog_id, ..LiveRequest::default() };
        for (mut client, expected) in [
            (a.client(), Code::PermissionDenied),
            (fixture.client("Bearer nonsense"), Code::Unauthenticated),
            (fixture.client(""), Code::Unauthenticated),
        ] {
            assert_eq!(code(client.changes_since(changes.clone()).await), expected, "{}", fixture.name);
            assert_eq!(code(client.live(live.clone()).await), expected);
        }
    }
}

#[tokio::test]
async fn invalid_requests_of_services_are_refused() {
    for fixture in fixtures().await {
        let mut service = fixture.service_client();
        let dialog_id = DialogId::now().bytes();
        for (dialog_id, since, limit) in [
            (dialog_id.clone(), -1, 1),
            (dialog_id.clone(), 0, 0),
            (dialog_id.clone(), 0, 1_001),
            (dialog_id.clone(), 0, -5),
            (vec![1], 0, 1),
        ] {
            let refused = service.changes_since(ChangesSinceRequest { dialog_id, since, limit }).await;
            assert_eq!(code(refused), Code::InvalidArgument, "{}", fixture.name);
        }
        let absent = ChangesSinceRequest { dialog_id: dialog_id.clone(), since: 0, limit: 1 };
        assert_eq!(service.changes_since(absent).await.unwrap().into_inner().head, 0);
        let ids = |count| vec![MessageId::now().bytes(); count];
        for (dialog_id, message_ids, user_ids) in [
            (dialog_id.clone(), ids(1_001), vec![]),
            (dialog_id.clone(), vec![], ids(10_001)),
            (dialog_id.clone(), vec![vec![]], vec![]),
            (dialog_id, vec![], vec![vec![]]),
            (vec![2], vec![], vec![]),
        ] {
            let refused = service.live(LiveRequest { dialog_id, message_ids, user_ids }).await;
            assert_eq!(code(refused), Code::InvalidArgument);
        }
    }
}

#[tokio::test]
async fn live_returns_messages_and_current_members() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let left = fixture.user();
        let group = a.group(&[&b, &left]).await;
        let one = a.send(&group.id, "one").await;
        let two = b.send(&group.id, "two").await;
        let elsewhere = a.send(&a.direct(&b).await.id, "elsewhere").await;
        left.client().leave(LeaveRequest { dialog_id: group.id.clone() }).await.unwrap();
        let users = [a.id, left.id, UserId::now(), b.id];
        let request = LiveRequest {
            dialog_id: group.id.clone(),
            message_ids: vec![two.id.clone(), elsewhere.id, one.id.clone(), MessageId::now().bytes()],
            user_ids: users.iter().map(|user| user.bytes()).collect(),
        };
        let live = fixture.service_client().live(request).await.unwrap().into_inner();
        assert_eq!(live.head, head(7), "{}", fixture.name);
        assert_eq!(live.messages, [one, two]);
        let mut members = vec![a.id.bytes(), b.id.bytes()];
        members.sort();
        assert_eq!(live.member_ids, members);
        let absent = LiveRequest { dialog_id: DialogId::now().bytes(), ..LiveRequest::default() };
        assert_eq!(fixture.service_client().live(absent).await.unwrap().into_inner().head, head(0));
    }
}
