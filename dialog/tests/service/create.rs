//! Creation of dialogs.

use proto::{
    UserId,
    dialog::CreateRequest,
    events::{DialogCreated, ParticipantJoined, event::Kind},
    topic,
};
use tonic::{Code, Status};

use crate::{
    fake_auth::UsersCall,
    fixture::{TestUser, code, fixtures},
    store::{client_keys, event_names, outbox},
};

fn sorted_ids(users: &[&TestUser]) -> Vec<Vec<u8>> {
    let mut ids: Vec<_> = users.iter().map(|user| user.id.bytes()).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn two_users_have_one_direct_dialog_from_both_sides() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        assert!(dialog.direct && dialog.title.is_none() && dialog.last_message.is_none(), "{}", fixture.name);
        assert_eq!(dialog.participant_ids, sorted_ids(&[&a, &b]));
        assert_eq!(dialog.created_at_us, dialog.last_activity_us);
        assert_eq!(b.direct(&a).await, dialog);
        assert_eq!(a.direct(&b).await, dialog);
        assert_eq!(
            event_names(&fixture.db).await,
            ["DialogCreated", "ParticipantJoined", "ParticipantJoined"]
        );
        let with_caller = CreateRequest {
            participant_ids: vec![b.id.bytes(), a.id.bytes(), b.id.bytes()],
            ..CreateRequest::default()
        };
        assert_eq!(
            a.client().create(with_caller).await.unwrap().into_inner(),
            dialog,
            "naming the caller changes nothing"
        );
    }
}

#[tokio::test]
async fn each_event_of_a_new_dialog_increments_its_version() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let c = fixture.user();
        let dialog = a.group(&[&b, &c]).await;
        let events = outbox(&fixture.db, topic::DIALOG).await;
        assert_eq!(
            events.iter().map(|event| event.version).collect::<Vec<_>>(),
            [1, 2, 3, 4],
            "{}",
            fixture.name
        );
        assert_eq!(
            events[0].kind,
            Kind::DialogCreated(DialogCreated { dialog_id: dialog.id.clone(), version: 1 })
        );
        for (event, user_id) in events[1..].iter().zip(&dialog.participant_ids) {
            let joined = ParticipantJoined {
                dialog_id: dialog.id.clone(),
                version: event.version,
                user_id: user_id.clone(),
                joined_seq: 0,
            };
            assert_eq!(event.kind, Kind::ParticipantJoined(joined));
        }
        let id = proto::DialogId::parse(&dialog.id).unwrap().to_string();
        assert!(events.iter().all(|event| event.key == id && event.request_id.is_some()));
    }
}

#[tokio::test]
async fn a_title_or_a_third_participant_makes_a_group() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let c = fixture.user();
        let direct = a.direct(&b).await;
        let titled = a.try_create(&[&b], Some("Ferien 🏖"), None).await.unwrap();
        assert!(!titled.direct, "{}", fixture.name);
        assert_eq!(titled.title.as_deref(), Some("Ferien 🏖"));
        let again = a.try_create(&[&b], Some("Ferien 🏖"), None).await.unwrap();
        let three = a.try_create(&[&b, &c], None, None).await.unwrap();
        assert!(!three.direct && three.title.is_none());
        assert_eq!(three.participant_ids, sorted_ids(&[&a, &b, &c]));
        let ids = [&direct.id, &titled.id, &again.id, &three.id];
        assert!(
            ids.iter().enumerate().all(|(index, id)| !ids[..index].contains(id)),
            "each call creates another group"
        );
    }
}

#[tokio::test]
async fn a_client_key_creates_one_dialog() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let c = fixture.user();
        let group = a.try_create(&[&b, &c], Some("x"), Some("key")).await.unwrap();
        assert_eq!(a.try_create(&[&c, &b], Some("x"), Some("key")).await.unwrap(), group, "{}", fixture.name);
        assert_eq!(code(a.try_create(&[&b, &c], Some("y"), Some("key")).await), Code::AlreadyExists);
        assert_eq!(code(a.try_create(&[&b, &c], None, Some("key")).await), Code::AlreadyExists);
        assert_eq!(code(a.try_create(&[&b], Some("x"), Some("key")).await), Code::AlreadyExists);
        let other = b.try_create(&[&a, &c], Some("x"), Some("key")).await.unwrap();
        assert_ne!(other.id, group.id, "client keys are per user");
        let direct = a.direct(&b).await;
        let keyed = b.try_create(&[&a], None, Some("direct")).await.unwrap();
        assert_eq!(
            (&keyed.id, &b.try_create(&[&a], None, Some("direct")).await.unwrap().id),
            (&direct.id, &direct.id)
        );
        let sent =
            a.try_send(&group.id, "keys of dialogs and of messages are separate", Some("key")).await.unwrap();
        assert_eq!(sent.seq, 1);
    }
}

#[tokio::test]
async fn invalid_input_creates_nothing() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let create = |participant_ids: Vec<Vec<u8>>, title: Option<&str>, client_key: Option<&str>| {
            let mut client = a.client();
            let title = title.map(str::to_owned);
            let client_key = client_key.map(str::to_owned);
            async move { client.create(CreateRequest { participant_ids, title, client_key }).await }
        };
        let b = b.id.bytes();
        let long = "é".repeat(65);
        let too_many: Vec<_> = (0..1_000).map(|_| UserId::now().bytes()).collect();
        for (participant_ids, title, key) in [
            (vec![], None, None),
            (vec![a.id.bytes()], None, None),
            (vec![a.id.bytes(), a.id.bytes()], Some("alone"), None),
            (too_many, Some("crowd"), None),
            (vec![vec![1; 15]], None, None),
            (vec![vec![]], None, None),
            (vec![b.clone()], Some(""), None),
            (vec![b.clone()], Some(long.as_str()), None),
            (vec![b.clone()], Some("nul\0"), None),
            (vec![b.clone()], Some("two\nlines"), None),
            (vec![b.clone()], Some(" "), None),
            (vec![b.clone()], Some("\u{200b}\u{3164}"), None),
            (vec![b.clone()], Some("reversed \u{202e}"), None),
            (vec![b.clone()], Some("\u{2067}isolated\u{2069}"), None),
            (vec![b.clone()], None, Some("")),
            (vec![b.clone()], None, Some(long.as_str())),
            (vec![b.clone()], None, Some("nul\0")),
            (vec![b.clone(), UserId::now().bytes()], None, None),
            (vec![UserId::now().bytes()], None, Some("key")),
        ] {
            let refused = create(participant_ids, title, key).await;
            assert_eq!(code(refused), Code::InvalidArgument, "{}: {title:?} {key:?}", fixture.name);
        }
        assert!(event_names(&fixture.db).await.is_empty(), "{}", fixture.name);
        assert_eq!(client_keys(&fixture.db).await, 0);
        create(vec![b], Some(&"é".repeat(64)), Some("key")).await.unwrap();
    }
}

#[tokio::test]
async fn a_group_has_up_to_1000_participants() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let others: Vec<_> = (0..999).map(|_| fixture.user()).collect();
        let dialog = a.group(&others.iter().collect::<Vec<_>>()).await;
        assert_eq!(dialog.participant_ids.len(), 1_000, "{}", fixture.name);
        let versions: Vec<_> =
            outbox(&fixture.db, topic::DIALOG).await.iter().map(|event| event.version).collect();
        assert_eq!(versions, (1..=1_001).collect::<Vec<_>>());
        assert_eq!(others[998].get(&dialog.id).await.unwrap(), dialog);
    }
}

#[tokio::test]
async fn auth_is_called_once_with_the_callers_token() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let c = fixture.user();
        a.group(&[&b, &c]).await;
        let call = UsersCall { authorization: a.authorization.clone(), users: 2 };
        assert_eq!(fixture.auth.calls(), [call], "{}", fixture.name);
    }
}

#[tokio::test]
async fn while_auth_is_unavailable_only_existing_dialogs_are_returned() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let c = fixture.user();
        let direct = a.direct(&b).await;
        let keyed = a.try_create(&[&b, &c], None, Some("key")).await.unwrap();
        fixture.auth.fail_with(Status::unknown("connection refused"));
        assert_eq!(code(a.try_create(&[&c], None, None).await), Code::Unavailable, "{}", fixture.name);
        assert_eq!(b.direct(&a).await, direct, "no new participant");
        assert_eq!(a.try_create(&[&b, &c], None, Some("key")).await.unwrap(), keyed);
        fixture.auth.fail_with(Status::deadline_exceeded("slow"));
        assert_eq!(code(a.try_create(&[&c], None, None).await), Code::DeadlineExceeded);
        fixture.auth.fail_with(Status::unauthenticated("the access token has expired"));
        assert_eq!(code(a.try_create(&[&c], None, None).await), Code::Unauthenticated);
        fixture.auth.recover();
        a.direct(&c).await;
    }
}

#[tokio::test]
async fn a_dialog_cannot_be_created_without_an_access_token() {
    for fixture in fixtures().await {
        let b = fixture.user();
        for authorization in ["", "Bearer", "Bearer nonsense", "Basic eA==", &fixture.token.header()] {
            let request = CreateRequest { participant_ids: vec![b.id.bytes()], ..CreateRequest::default() };
            let refused = fixture.client(authorization).create(request).await;
            assert_eq!(code(refused), Code::Unauthenticated, "{}: {authorization}", fixture.name);
        }
        assert!(event_names(&fixture.db).await.is_empty());
    }
}
