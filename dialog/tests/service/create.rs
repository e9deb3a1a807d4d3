//! Making dialogs.

use proto::{
    UserId,
    dialog::CreateRequest,
    events::{DialogCreated, ParticipantJoined, event::Kind},
    topic,
};
use tonic::{Code, Status};

use crate::{
    store::{keys, names, outbox},
    world::{Person, code, worlds},
};

fn sorted(people: &[&Person]) -> Vec<Vec<u8>> {
    let mut ids: Vec<_> = people.iter().map(|person| person.id.bytes()).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn two_people_have_one_dialog_found_from_both_sides() {
    for world in worlds().await {
        let (a, b) = (world.person(), world.person());
        let dialog = a.direct(&b).await;
        assert!(dialog.direct && dialog.title.is_none() && dialog.last_message.is_none(), "{}", world.name);
        assert_eq!(dialog.participant_ids, sorted(&[&a, &b]));
        assert_eq!(dialog.created_at_us, dialog.last_activity_us);
        assert_eq!(b.direct(&a).await, dialog);
        assert_eq!(a.direct(&b).await, dialog);
        assert_eq!(names(&world.db).await, ["DialogCreated", "ParticipantJoined", "ParticipantJoined"]);
        let itself = CreateRequest {
            participant_ids: vec![b.id.bytes(), a.id.bytes(), b.id.bytes()],
            ..CreateRequest::default()
        };
        assert_eq!(
            a.client().create(itself).await.unwrap().into_inner(),
            dialog,
            "naming oneself changes nothing"
        );
    }
}

#[tokio::test]
async fn every_event_of_a_new_dialog_is_a_step_of_its_version() {
    for world in worlds().await {
        let (a, b, c) = (world.person(), world.person(), world.person());
        let dialog = a.group(&[&b, &c]).await;
        let events = outbox(&world.db, topic::DIALOG).await;
        assert_eq!(
            events.iter().map(|event| event.version).collect::<Vec<_>>(),
            [1, 2, 3, 4],
            "{}",
            world.name
        );
        assert_eq!(
            events[0].kind,
            Kind::DialogCreated(DialogCreated { dialog_id: dialog.id.clone(), version: 1 })
        );
        for (event, person) in events[1..].iter().zip(&dialog.participant_ids) {
            let joined = ParticipantJoined {
                dialog_id: dialog.id.clone(),
                version: event.version,
                user_id: person.clone(),
                joined_seq: 0,
            };
            assert_eq!(event.kind, Kind::ParticipantJoined(joined));
        }
        let id = proto::DialogId::parse(&dialog.id).unwrap().to_string();
        assert!(events.iter().all(|event| event.key == id && event.request_id.is_some()));
    }
}

#[tokio::test]
async fn a_title_or_a_third_person_makes_a_group() {
    for world in worlds().await {
        let (a, b, c) = (world.person(), world.person(), world.person());
        let direct = a.direct(&b).await;
        let titled = a.try_create(&[&b], Some("Ferien 🏖"), None).await.unwrap();
        assert!(!titled.direct, "{}", world.name);
        assert_eq!(titled.title.as_deref(), Some("Ferien 🏖"));
        let again = a.try_create(&[&b], Some("Ferien 🏖"), None).await.unwrap();
        let three = a.try_create(&[&b, &c], None, None).await.unwrap();
        assert!(!three.direct && three.title.is_none());
        assert_eq!(three.participant_ids, sorted(&[&a, &b, &c]));
        let ids = [&direct.id, &titled.id, &again.id, &three.id];
        assert!(
            ids.iter().enumerate().all(|(place, id)| !ids[..place].contains(id)),
            "groups are as many as are made"
        );
    }
}

#[tokio::test]
async fn a_client_key_makes_one_dialog() {
    for world in worlds().await {
        let (a, b, c) = (world.person(), world.person(), world.person());
        let group = a.try_create(&[&b, &c], Some("x"), Some("key")).await.unwrap();
        assert_eq!(a.try_create(&[&c, &b], Some("x"), Some("key")).await.unwrap(), group, "{}", world.name);
        assert_eq!(code(a.try_create(&[&b, &c], Some("y"), Some("key")).await), Code::AlreadyExists);
        assert_eq!(code(a.try_create(&[&b, &c], None, Some("key")).await), Code::AlreadyExists);
        assert_eq!(code(a.try_create(&[&b], Some("x"), Some("key")).await), Code::AlreadyExists);
        let other = b.try_create(&[&a, &c], Some("x"), Some("key")).await.unwrap();
        assert_ne!(other.id, group.id, "a key is its author's own");
        let direct = a.direct(&b).await;
        let keyed = b.try_create(&[&a], None, Some("direct")).await.unwrap();
        assert_eq!(
            (&keyed.id, &b.try_create(&[&a], None, Some("direct")).await.unwrap().id),
            (&direct.id, &direct.id)
        );
        let sent =
            a.try_send(&group.id, "a key of a dialog is none of a message", Some("key")).await.unwrap();
        assert_eq!(sent.seq, 1);
    }
}

#[tokio::test]
async fn bad_input_makes_nothing() {
    for world in worlds().await {
        let (a, b) = (world.person(), world.person());
        let create = |participant_ids: Vec<Vec<u8>>, title: Option<&str>, client_key: Option<&str>| {
            let (mut client, title, client_key) =
                (a.client(), title.map(str::to_owned), client_key.map(str::to_owned));
            async move { client.create(CreateRequest { participant_ids, title, client_key }).await }
        };
        let b = b.id.bytes();
        let long = "é".repeat(65);
        let crowd: Vec<_> = (0..1_000).map(|_| UserId::now().bytes()).collect();
        for (people, title, key) in [
            (vec![], None, None),
            (vec![a.id.bytes()], None, None),
            (vec![a.id.bytes(), a.id.bytes()], Some("alone"), None),
            (crowd, Some("crowd"), None),
            (vec![vec![1; 15]], None, None),
            (vec![vec![]], None, None),
            (vec![b.clone()], Some(""), None),
            (vec![b.clone()], Some(long.as_str()), None),
            (vec![b.clone()], Some("nul\0"), None),
            (vec![b.clone()], Some("two\nlines"), None),
            (vec![b.clone()], None, Some("")),
            (vec![b.clone()], None, Some(long.as_str())),
            (vec![b.clone()], None, Some("nul\0")),
            (vec![b.clone(), UserId::now().bytes()], None, None),
            (vec![UserId::now().bytes()], None, Some("key")),
        ] {
            let refused = create(people, title, key).await;
            assert_eq!(code(refused), Code::InvalidArgument, "{}: {title:?} {key:?}", world.name);
        }
        assert!(names(&world.db).await.is_empty(), "{}", world.name);
        assert_eq!(keys(&world.db).await, 0);
        create(vec![b], Some(&"é".repeat(64)), Some("key")).await.unwrap();
    }
}

#[tokio::test]
async fn a_thousand_people_make_a_group() {
    for world in worlds().await {
        let a = world.person();
        let others: Vec<_> = (0..999).map(|_| world.person()).collect();
        let dialog = a.group(&others.iter().collect::<Vec<_>>()).await;
        assert_eq!(dialog.participant_ids.len(), 1_000, "{}", world.name);
        let versions: Vec<_> =
            outbox(&world.db, topic::DIALOG).await.iter().map(|event| event.version).collect();
        assert_eq!(versions, (1..=1_001).collect::<Vec<_>>());
        assert_eq!(others[998].get(&dialog.id).await.unwrap(), dialog);
    }
}

#[tokio::test]
async fn auth_is_asked_once_in_the_callers_own_name() {
    for world in worlds().await {
        let (a, b, c) = (world.person(), world.person(), world.person());
        a.group(&[&b, &c]).await;
        assert_eq!(world.auth.calls(), [(a.authorization.clone(), 2)], "{}", world.name);
    }
}

#[tokio::test]
async fn while_auth_is_away_only_what_is_there_can_be_opened() {
    for world in worlds().await {
        let (a, b, c) = (world.person(), world.person(), world.person());
        let direct = a.direct(&b).await;
        let keyed = a.try_create(&[&b, &c], None, Some("key")).await.unwrap();
        world.auth.go_away(Status::unknown("connection refused"));
        assert_eq!(code(a.try_create(&[&c], None, None).await), Code::Unavailable, "{}", world.name);
        assert_eq!(b.direct(&a).await, direct, "nobody new is in it");
        assert_eq!(a.try_create(&[&b, &c], None, Some("key")).await.unwrap(), keyed);
        world.auth.go_away(Status::deadline_exceeded("slow"));
        assert_eq!(code(a.try_create(&[&c], None, None).await), Code::DeadlineExceeded);
        world.auth.go_away(Status::unauthenticated("the access token has expired"));
        assert_eq!(code(a.try_create(&[&c], None, None).await), Code::Unauthenticated);
        world.auth.come_back();
        a.direct(&c).await;
    }
}

#[tokio::test]
async fn nobody_makes_a_dialog_without_a_token_of_a_person() {
    for world in worlds().await {
        let b = world.person();
        for authorization in ["", "Bearer", "Bearer nonsense", "Basic eA==", &world.token.header()] {
            let request = CreateRequest { participant_ids: vec![b.id.bytes()], ..CreateRequest::default() };
            let refused = world.client(authorization).create(request).await;
            assert_eq!(code(refused), Code::Unauthenticated, "{}: {authorization}", world.name);
        }
        assert!(names(&world.db).await.is_empty());
    }
}
