//! Joining and leaving groups, and what those see who take no part.

use proto::{
    DialogId, MessageId, UserId,
    dialog::{
        AddParticipantsRequest, DeleteRequest, Dialog, GetRequest, HistoryPage, LeaveRequest, ListRequest,
        MessagesRequest, MessagesSinceRequest, ReadTargetRequest,
    },
    events::event::Kind,
    topic,
};
use tonic::{Code, Status};

use crate::{
    store::{names, outbox},
    world::{Person, code, worlds},
};

async fn add(caller: &Person, dialog: &[u8], people: &[UserId]) -> Result<Dialog, Status> {
    let user_ids = people.iter().map(|person| person.bytes()).collect();
    let request = AddParticipantsRequest { dialog_id: dialog.to_vec(), user_ids };
    Ok(caller.client().add_participants(request).await?.into_inner())
}

async fn leave(caller: &Person, dialog: &[u8]) -> Result<(), Status> {
    caller.client().leave(LeaveRequest { dialog_id: dialog.to_vec() }).await.map(drop)
}

#[tokio::test]
async fn any_participant_adds_people_and_those_present_stay_as_they_are() {
    for world in worlds().await {
        let (a, b, c, d) = (world.person(), world.person(), world.person(), world.person());
        let group = a.group(&[&b]).await;
        a.send(&group.id, "one").await;
        let before = names(&world.db).await.len();
        let grown = add(&b, &group.id, &[c.id, a.id, d.id, c.id]).await.unwrap();
        assert_eq!(grown.participant_ids.len(), 4, "{}", world.name);
        let events = outbox(&world.db, topic::DIALOG).await;
        assert_eq!(events.len(), before + 2);
        for (event, version) in events[before..].iter().zip(5..) {
            let Kind::ParticipantJoined(joined) = &event.kind else { panic!("{event:?}") };
            assert_eq!((joined.version, event.version, joined.joined_seq), (version, version, 1));
        }
        assert_eq!(add(&a, &group.id, &[b.id, c.id]).await.unwrap(), grown, "nobody new, nothing changes");
        assert_eq!(names(&world.db).await.len(), before + 2);
        assert_eq!(c.history(&group.id).await.len(), 1, "who joins reads what was said before");
    }
}

#[tokio::test]
async fn who_leaves_and_comes_back_joins_anew() {
    for world in worlds().await {
        let (a, b) = (world.person(), world.person());
        let group = a.group(&[&b]).await;
        leave(&b, &group.id).await.unwrap();
        let smaller = a.get(&group.id).await.unwrap();
        assert_eq!(smaller.participant_ids, [a.id.bytes()], "{}", world.name);
        a.send(&group.id, "alone").await;
        a.send(&group.id, "still alone").await;
        add(&a, &group.id, &[b.id]).await.unwrap();
        let events = outbox(&world.db, topic::DIALOG).await;
        let names: Vec<_> = events[3..].iter().map(|event| event.name.as_str()).collect();
        assert_eq!(names, ["ParticipantLeft", "MessageSent", "MessageSent", "ParticipantJoined"]);
        let Kind::ParticipantJoined(joined) = &events[6].kind else { panic!("{events:?}") };
        assert_eq!((joined.version, joined.joined_seq, &joined.user_id), (7, 2, &b.id.bytes()));
        assert_eq!(b.history(&group.id).await.len(), 2);
    }
}

#[tokio::test]
async fn nobody_joins_or_leaves_a_dialog_of_two_people() {
    for world in worlds().await {
        let (a, b, c) = (world.person(), world.person(), world.person());
        let direct = a.direct(&b).await;
        let before = names(&world.db).await;
        assert_eq!(code(add(&a, &direct.id, &[c.id]).await), Code::FailedPrecondition, "{}", world.name);
        assert_eq!(code(leave(&a, &direct.id).await), Code::FailedPrecondition);
        assert_eq!(code(add(&c, &direct.id, &[c.id]).await), Code::NotFound, "it does not exist for others");
        assert_eq!(code(leave(&c, &direct.id).await), Code::NotFound);
        assert_eq!(names(&world.db).await, before);
    }
}

#[tokio::test]
async fn bad_input_adds_nobody() {
    for world in worlds().await {
        let (a, b) = (world.person(), world.person());
        let group = a.group(&[&b]).await;
        let before = names(&world.db).await;
        let crowd: Vec<_> = (0..1_001).map(|_| UserId::now()).collect();
        for people in [&[][..], &[world.stranger().id], &[world.person().id, UserId::now()], &crowd] {
            assert_eq!(code(add(&a, &group.id, people).await), Code::InvalidArgument, "{}", world.name);
        }
        let full: Vec<_> = (0..999).map(|_| world.person().id).collect();
        assert_eq!(code(add(&a, &group.id, &full).await), Code::InvalidArgument, "a thousand and one");
        assert_eq!(code(add(&a, &[7; 15], &[b.id]).await), Code::InvalidArgument);
        assert_eq!(code(add(&a, &DialogId::now().bytes(), &[b.id]).await), Code::NotFound);
        world.auth.go_away(Status::unavailable("away"));
        assert_eq!(code(add(&a, &group.id, &full[..1]).await), Code::Unavailable);
        assert_eq!(names(&world.db).await, before);
        assert_eq!(
            add(&a, &group.id, &[b.id]).await.unwrap().participant_ids.len(),
            2,
            "nobody new to ask about"
        );
        world.auth.come_back();
        assert_eq!(add(&a, &group.id, &full[1..]).await.unwrap().participant_ids.len(), 1_000);
        assert_eq!(code(add(&a, &group.id, &full[..1]).await), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn for_those_who_take_no_part_a_dialog_is_not_there() {
    for world in worlds().await {
        let (a, b, left, never) = (world.person(), world.person(), world.person(), world.person());
        let group = a.group(&[&b, &left]).await;
        let own = left.send(&group.id, "mine").await;
        leave(&left, &group.id).await.unwrap();
        assert_eq!(code(leave(&left, &group.id).await), Code::NotFound, "{}", world.name);
        let before = names(&world.db).await;
        let absent = (DialogId::now().bytes(), MessageId::now().bytes());
        let mut answers = Vec::new();
        for (who, dialog, message) in
            [(&left, &group.id, &own.id), (&never, &group.id, &own.id), (&never, &absent.0, &absent.1)]
        {
            answers.push(unseen(who, dialog, message).await);
        }
        assert!(
            answers.iter().all(|answer| *answer == answers[0]),
            "foreign and absent look alike: {answers:?}"
        );
        assert_eq!(names(&world.db).await, before);
    }
}

/// Tries everything, and returns what it was told.
async fn unseen(who: &Person, dialog: &[u8], message: &[u8]) -> Vec<String> {
    let (mut client, mut told) = (who.client(), Vec::new());
    let mut refused = |status: Status| {
        assert_eq!(status.code(), Code::NotFound);
        told.push(status.message().to_owned());
    };
    refused(who.try_send(dialog, "text", None).await.unwrap_err());
    refused(who.try_send(dialog, "text", Some("key")).await.unwrap_err());
    refused(add(who, dialog, &[who.id]).await.unwrap_err());
    refused(leave(who, dialog).await.unwrap_err());
    refused(client.delete(DeleteRequest { message_id: message.to_vec() }).await.unwrap_err());
    for message_id in [None, Some(message.to_vec())] {
        let target = ReadTargetRequest { dialog_id: dialog.to_vec(), message_id };
        refused(client.read_target(target).await.unwrap_err());
    }
    let since = MessagesSinceRequest { dialog_id: dialog.to_vec(), since: None };
    refused(client.messages_since(since).await.unwrap_err());
    let own = client.list(ListRequest { first: 100, after: None }).await.unwrap().into_inner();
    assert!(own.dialogs.is_empty() && !own.has_next);
    assert!(
        client.get(GetRequest { ids: vec![dialog.to_vec()] }).await.unwrap().into_inner().dialogs.is_empty()
    );
    let named = MessagesRequest { ids: vec![message.to_vec()], transaction_ids: vec![message.to_vec()] };
    assert!(client.messages(named).await.unwrap().into_inner().messages.is_empty());
    for (first, last) in [(Some(1), None), (None, Some(1))] {
        let page = HistoryPage { dialog_id: dialog.to_vec(), first, last, ..HistoryPage::default() };
        let page = who.page(page).await;
        assert!(!page.found && page.messages.is_empty() && !page.has_next && !page.has_previous);
    }
    told
}
