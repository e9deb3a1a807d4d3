//! Adding participants, leaving groups, and the errors for users who do not take part.

use proto::{
    DialogId, MessageId, UserId,
    dialog::{
        AddParticipantsRequest, DeleteRequest, Dialog, GetRequest, HistoryPage, LeaveRequest, ListRequest,
        MessagesRequest, MessagesSinceRequest, ParticipantsRequest, ReadTargetRequest, RenameRequest,
    },
    events::event::Kind,
    topic,
};
use tonic::{Code, Status};

use crate::{
    fixture::{TestUser, code, fixtures},
    store::{event_names, outbox},
};

async fn add(caller: &TestUser, dialog: &[u8], users: &[UserId]) -> Result<Dialog, Status> {
    let user_ids = users.iter().map(|user| user.bytes()).collect();
    let request = AddParticipantsRequest { dialog_id: dialog.to_vec(), user_ids };
    Ok(caller.client().add_participants(request).await?.into_inner())
}

async fn leave(caller: &TestUser, dialog: &[u8]) -> Result<(), Status> {
    caller.client().leave(LeaveRequest { dialog_id: dialog.to_vec() }).await.map(drop)
}

#[tokio::test]
async fn any_participant_can_add_users_and_existing_participants_are_ignored() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let c = fixture.user();
        let d = fixture.user();
        let group = a.group(&[&b]).await;
        a.send(&group.id, "one").await;
        let before = event_names(&fixture.db).await.len();
        let grown = add(&b, &group.id, &[c.id, a.id, d.id, c.id]).await.unwrap();
        assert_eq!(grown.participant_ids.len(), 4, "{}", fixture.name);
        let events = outbox(&fixture.db, topic::DIALOG).await;
        assert_eq!(events.len(), before + 2);
        for (event, version) in events[before..].iter().zip(5..) {
            let Kind::ParticipantJoined(joined) = &event.kind else { panic!("{event:?}") };
            assert_eq!((joined.version, event.version, joined.joined_seq), (version, version, 1));
        }
        assert_eq!(add(&a, &group.id, &[b.id, c.id]).await.unwrap(), grown, "no new participant, no change");
        assert_eq!(event_names(&fixture.db).await.len(), before + 2);
        assert_eq!(c.history(&group.id).await.len(), 1, "a new participant sees earlier messages");
    }
}

#[tokio::test]
async fn a_user_who_left_can_be_added_again() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let group = a.group(&[&b]).await;
        leave(&b, &group.id).await.unwrap();
        let smaller = a.get(&group.id).await.unwrap();
        assert_eq!(smaller.participant_ids, [a.id.bytes()], "{}", fixture.name);
        a.send(&group.id, "alone").await;
        a.send(&group.id, "still alone").await;
        add(&a, &group.id, &[b.id]).await.unwrap();
        let events = outbox(&fixture.db, topic::DIALOG).await;
        let names: Vec<_> = events[3..].iter().map(|event| event.name.as_str()).collect();
        assert_eq!(names, ["ParticipantLeft", "MessageSent", "MessageSent", "ParticipantJoined"]);
        let Kind::ParticipantJoined(joined) = &events[6].kind else { panic!("{events:?}") };
        assert_eq!((joined.version, joined.joined_seq, &joined.user_id), (7, 2, &b.id.bytes()));
        assert_eq!(b.history(&group.id).await.len(), 2);
    }
}

#[tokio::test]
async fn a_direct_dialog_cannot_be_joined_or_left() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let c = fixture.user();
        let direct = a.direct(&b).await;
        let before = event_names(&fixture.db).await;
        assert_eq!(code(add(&a, &direct.id, &[c.id]).await), Code::FailedPrecondition, "{}", fixture.name);
        assert_eq!(code(leave(&a, &direct.id).await), Code::FailedPrecondition);
        assert_eq!(code(add(&c, &direct.id, &[c.id]).await), Code::NotFound, "it is not visible to others");
        assert_eq!(code(leave(&c, &direct.id).await), Code::NotFound);
        assert_eq!(event_names(&fixture.db).await, before);
    }
}

#[tokio::test]
async fn invalid_input_adds_no_participant() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let group = a.group(&[&b]).await;
        let before = event_names(&fixture.db).await;
        let too_many: Vec<_> = (0..1_001).map(|_| UserId::now()).collect();
        for users in
            [&[][..], &[fixture.unregistered_user().id], &[fixture.user().id, UserId::now()], &too_many]
        {
            assert_eq!(code(add(&a, &group.id, users).await), Code::InvalidArgument, "{}", fixture.name);
        }
        let full: Vec<_> = (0..999).map(|_| fixture.user().id).collect();
        assert_eq!(code(add(&a, &group.id, &full).await), Code::InvalidArgument, "1,001 participants");
        assert_eq!(code(add(&a, &[7; 15], &[b.id]).await), Code::InvalidArgument);
        assert_eq!(code(add(&a, &DialogId::now().bytes(), &[b.id]).await), Code::NotFound);
        fixture.auth.fail_with(Status::unavailable("unavailable"));
        assert_eq!(code(add(&a, &group.id, &full[..1]).await), Code::Unavailable);
        assert_eq!(event_names(&fixture.db).await, before);
        assert_eq!(
            add(&a, &group.id, &[b.id]).await.unwrap().participant_ids.len(),
            2,
            "no new participant to look up"
        );
        fixture.auth.recover();
        assert_eq!(add(&a, &group.id, &full[1..]).await.unwrap().participant_ids.len(), 1_000);
        assert_eq!(code(add(&a, &group.id, &full[..1]).await), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn a_dialog_is_not_found_for_users_who_do_not_take_part() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let left = fixture.user();
        let never = fixture.user();
        let group = a.group(&[&b, &left]).await;
        let own = left.send(&group.id, "mine").await;
        leave(&left, &group.id).await.unwrap();
        assert_eq!(code(leave(&left, &group.id).await), Code::NotFound, "{}", fixture.name);
        let before = event_names(&fixture.db).await;
        let unknown_dialog = DialogId::now().bytes();
        let unknown_message = MessageId::now().bytes();
        let mut errors = Vec::new();
        for (user, dialog, message) in [
            (&left, &group.id, &own.id),
            (&never, &group.id, &own.id),
            (&never, &unknown_dialog, &unknown_message),
        ] {
            errors.push(assert_not_found(user, dialog, message).await);
        }
        assert!(
            errors.iter().all(|error| *error == errors[0]),
            "foreign and unknown objects look the same: {errors:?}"
        );
        assert_eq!(event_names(&fixture.db).await, before);
    }
}

/// Asserts that every call is NOT_FOUND or empty, and returns the error messages.
async fn assert_not_found(user: &TestUser, dialog: &[u8], message: &[u8]) -> Vec<String> {
    let mut client = user.client();
    let mut errors = Vec::new();
    let mut refused = |status: Status| {
        assert_eq!(status.code(), Code::NotFound);
        errors.push(status.message().to_owned());
    };
    refused(user.try_send(dialog, "text", None).await.unwrap_err());
    refused(user.try_send(dialog, "text", Some("key")).await.unwrap_err());
    refused(add(user, dialog, &[user.id]).await.unwrap_err());
    refused(leave(user, dialog).await.unwrap_err());
    refused(client.delete(DeleteRequest { message_id: message.to_vec() }).await.unwrap_err());
    for message_id in [None, Some(message.to_vec())] {
        let target = ReadTargetRequest { dialog_id: dialog.to_vec(), message_id };
        refused(client.read_target(target).await.unwrap_err());
    }
    let since = MessagesSinceRequest { dialog_id: dialog.to_vec(), since: None };
    refused(client.messages_since(since).await.unwrap_err());
    let own = client
        .list(ListRequest { first: 100, after: None, participants_first: None })
        .await
        .unwrap()
        .into_inner();
    assert!(own.dialogs.is_empty() && !own.has_next);
    assert!(
        client.get(GetRequest { ids: vec![dialog.to_vec()] }).await.unwrap().into_inner().dialogs.is_empty()
    );
    let named = MessagesRequest { ids: vec![message.to_vec()], transaction_ids: vec![message.to_vec()] };
    assert!(client.messages(named).await.unwrap().into_inner().messages.is_empty());
    for (first, last) in [(Some(1), None), (None, Some(1))] {
        let page = HistoryPage { dialog_id: dialog.to_vec(), first, last, ..HistoryPage::default() };
        let page = user.page(page).await;
        assert!(!page.found && page.messages.is_empty() && !page.has_next && !page.has_previous);
    }
    errors
}

#[tokio::test]
async fn a_participant_renames_a_group_and_services_learn_who_takes_part() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let outsider = fixture.user();
        let group = a.group(&[&b]).await;
        let rename = async |user: &TestUser, dialog: &Dialog, title: &str| {
            let request = RenameRequest { dialog_id: dialog.id.clone(), title: title.to_owned() };
            user.client().rename(request).await
        };
        let renamed = rename(&b, &group, "another title").await.unwrap().into_inner();
        assert_eq!(renamed.title.as_deref(), Some("another title"), "{}", fixture.name);
        assert_eq!(renamed.last_activity_us, group.last_activity_us, "a title is no activity");
        let last = outbox(&fixture.db, topic::DIALOG).await.pop().unwrap();
        let Kind::DialogRenamed(event) = last.kind else { panic!("{last:?}") };
        assert_eq!((event.dialog_id, event.version), (group.id.clone(), last.version));
        let events = event_names(&fixture.db).await.len();
        assert_eq!(rename(&a, &group, "another title").await.unwrap().into_inner(), renamed);
        assert_eq!(code(rename(&outsider, &group, "x").await), Code::NotFound);
        assert_eq!(code(rename(&a, &a.direct(&outsider).await, "x").await), Code::FailedPrecondition);
        for title in ["", "\u{200b}", &"x".repeat(65)] {
            assert_eq!(code(rename(&a, &group, title).await), Code::InvalidArgument, "{title:?}");
        }
        let direct = 3;
        assert_eq!(event_names(&fixture.db).await.len(), events + direct, "no other event");

        let participants = async |dialog_id: &[u8]| {
            let request = ParticipantsRequest { dialog_id: dialog_id.to_vec() };
            fixture.service_client().participants(request).await.unwrap().into_inner().user_ids
        };
        let mut both = vec![a.id.bytes(), b.id.bytes()];
        both.sort();
        assert_eq!(participants(&group.id).await, both);
        leave(&b, &group.id).await.unwrap();
        assert_eq!(participants(&group.id).await, [a.id.bytes()]);
        assert!(participants(&DialogId::now().bytes()).await.is_empty());
        let request = ParticipantsRequest { dialog_id: group.id.clone() };
        assert_eq!(code(a.client().participants(request).await), Code::PermissionDenied);
    }
}
