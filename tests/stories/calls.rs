//! Who may call what among the services: every call of the contracts for every kind of caller, on the servers themselves.
//! The descriptors say which calls there are; one without a row fails, and so does a row without a call.

use std::{collections::BTreeSet, time::Duration};

use access::{BoxError, Guard, KeySet, ServiceToken, SigningKeys};
use events::{Local, Log};
use http_body_util::{BodyExt, Full};
use prost::Message;
use proto::{
    DialogId, MessageId, Peer, SessionId, UserId,
    auth::{self, Session, auth_client::AuthClient},
    counter, dialog, local, topic,
};
use telemetry::{Call, Readiness};
use testkit::{TestDb, eventually};
use tokio_util::sync::CancellationToken;
use tonic::{Code, body::Body, codegen::http};
use tower::ServiceExt;

use crate::{
    calls_table::{EVERYONE, Outcome, Row, Scene, TABLE, Who},
    person::PASSWORD,
};

/// The services in this process, each with a database of its own, and everyone who calls them.
struct World {
    auth: Peer,
    dialog: Peer,
    counter: Peer,
    service_token: ServiceToken,
    owner: Session,
    participant: Session,
    left: Session,
    stranger: Session,
    logged_out: Session,
    scenes: usize,
    shutdown: CancellationToken,
    tasks: tokio::task::JoinSet<()>,
    _databases: [TestDb; 3],
}

impl World {
    async fn new() -> Self {
        let own =
            async |migrations| testkit::sqlite(&[&db::MIGRATIONS, &events::MIGRATIONS, migrations]).await;
        let databases = [
            own(&::auth::MIGRATIONS).await,
            own(&::dialog::MIGRATIONS).await,
            own(&::counter::MIGRATIONS).await,
        ];
        let [auth_db, dialog_db, counter_db] = databases.each_ref().map(|test| test.db.clone());
        let topics = [
            (topic::AUTH, &auth_db),
            (topic::DIALOG, &dialog_db),
            (topic::COUNTER, &counter_db),
            (topic::UNREAD, &counter_db),
        ];
        let log = Log::Local(Local::new(topics.map(|(topic, db)| (topic, db.clone())).to_vec()));
        let (keys, service_token, shutdown) =
            (SigningKeys::generate(), ServiceToken::generate(), CancellationToken::new());
        let jwks = keys.jwks();
        let set = KeySet::new(move || std::future::ready(Ok::<_, BoxError>(jwks.clone())));
        let guard = Guard::new(set, service_token.clone(), "tidings");
        let hour = Duration::from_secs(3_600);
        let settings = ::auth::Settings { issuer: "tidings".to_owned(), access_ttl: hour, refresh_ttl: hour };
        let auth = local(::auth::App::new(auth_db, keys, service_token.clone(), settings).server());
        let dialogs = ::dialog::App::new(
            dialog_db,
            guard.clone(),
            auth.clone(),
            ::dialog::Settings { saga_deadline: hour },
        );
        let cache = ::counter::Cache::in_process();
        let counters = ::counter::App::new(counter_db, log.clone(), cache, guard, service_token.clone());
        let (dialog, counter) = (local(dialogs.server()), local(counters.server()));
        let (mut tasks, readiness) = (tokio::task::JoinSet::new(), Readiness::new());
        let (peer, token, stop, say) =
            (counter.clone(), service_token.clone(), shutdown.clone(), readiness.register("dialog"));
        tasks.spawn(async move { dialogs.run(&log, peer, token, say, stop).await.unwrap() });
        let (peer, stop, say) = (dialog.clone(), shutdown.clone(), readiness.register("counter"));
        tasks.spawn(async move { counters.run(peer, say, stop).await.unwrap() });
        let owner = register(&auth, "ann").await;
        let (participant, left) = (register(&auth, "bob").await, register(&auth, "cleo").await);
        let (stranger, logged_out) = (register(&auth, "mallory").await, login(&auth, "bob").await);
        let call = Call::new().with_authorization(&format!("Bearer {}", logged_out.access_token));
        let mut client = AuthClient::with_interceptor(auth.clone(), call);
        client.logout(auth::LogoutRequest::default()).await.unwrap();
        Self {
            auth,
            dialog,
            counter,
            service_token,
            owner,
            participant,
            left,
            stranger,
            logged_out,
            scenes: 0,
            shutdown,
            tasks,
            _databases: databases,
        }
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }

    fn authorization(&self, who: Who) -> Option<String> {
        let of = |session: &Session| Some(format!("Bearer {}", session.access_token));
        match who {
            Who::Owner => of(&self.owner),
            Who::Participant => of(&self.participant),
            Who::Left => of(&self.left),
            Who::Stranger => of(&self.stranger),
            Who::LoggedOut => of(&self.logged_out),
            Who::Anonymous => None,
            Who::BadToken => of(&self.owner).map(|token| token + "x"),
            Who::Service => Some(self.service_token.header()),
            Who::WrongService => Some(ServiceToken::generate().header()),
        }
    }

    /// Somebody new in this place, who may lose the session.
    async fn newcomer(&mut self, who: Who) -> Option<String> {
        self.scenes += 1;
        match who {
            Who::Owner | Who::Participant | Who::Left | Who::Stranger => {
                let session = register(&self.auth, &format!("newcomer{}", self.scenes)).await;
                Some(format!("Bearer {}", session.access_token))
            }
            _ => self.authorization(who),
        }
    }

    /// A call, byte for byte: its status, and its reply.
    async fn call(&self, path: &str, authorization: Option<&str>, message: &[u8]) -> (Code, String, Vec<u8>) {
        let peer = match path.split('.').nth(1) {
            Some("auth") => &self.auth,
            Some("dialog") => &self.dialog,
            _ => &self.counter,
        };
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let frame = [&[0][..], &length, message].concat();
        let mut request =
            http::Request::post(format!("http://service/{path}")).header("content-type", "application/grpc");
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let request = request.body(Body::new(Full::<tonic::codegen::Bytes>::from(frame))).unwrap();
        let (head, body) = peer.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap_or_default();
        let header = |name| {
            trailers
                .get(name)
                .or_else(|| head.headers.get(name))
                .map(|value| value.to_str().unwrap().to_owned())
        };
        let code = Code::from(header("grpc-status").unwrap().parse::<i32>().unwrap());
        (code, header("grpc-message").unwrap_or_default(), body.to_bytes().to_vec())
    }

    /// A group of the owner, the participant and the one who has left, with a message of the owner's.
    async fn scene(&mut self, row: &Row) -> Scene {
        self.scenes += 1;
        let id = |session: &Session| session.user.as_ref().unwrap().id.clone();
        let create = dialog::CreateRequest {
            participant_ids: vec![id(&self.participant), id(&self.left)],
            title: Some("three".to_owned()),
            client_key: None,
        };
        let (owner, left) = (self.authorization(Who::Owner), self.authorization(Who::Left));
        let (_, _, reply) =
            self.call("tidings.dialog.Dialogs/Create", owner.as_deref(), &create.encode_to_vec()).await;
        let made = dialog::Dialog::decode(&reply[5..]).unwrap().id;
        let send =
            dialog::SendRequest { dialog_id: made.clone(), text: "words".to_owned(), client_key: None };
        let (_, _, reply) =
            self.call("tidings.dialog.Dialogs/Send", owner.as_deref(), &send.encode_to_vec()).await;
        let message = dialog::Message::decode(&reply[5..]).unwrap();
        let rows = counter::RowsRequest { dialog_ids: vec![made.clone()], at_least: None }.encode_to_vec();
        let known = async |who: &Option<String>| {
            let (_, _, reply) = self.call("tidings.counter.Counters/Rows", who.as_deref(), &rows).await;
            counter::RowsReply::decode(&reply[5..]).unwrap().rows.first().map(|row| row.last_seq)
        };
        eventually("the counters know the message", || async { known(&owner).await == Some(1) }).await;
        let leave = dialog::LeaveRequest { dialog_id: made.clone() };
        self.call("tidings.dialog.Dialogs/Leave", left.as_deref(), &leave.encode_to_vec()).await;
        eventually("the counters know who has left", || async { known(&left).await.is_none() }).await;
        let refreshes = row.call.ends_with("Refresh");
        let session = if refreshes { login(&self.auth, "mallory").await } else { self.stranger.clone() };
        Scene {
            dialog: made,
            message,
            person: id(&self.stranger),
            refresh_token: session.refresh_token,
            number: self.scenes,
        }
    }
}

async fn register(peer: &Peer, login: &str) -> Session {
    let request =
        auth::RegisterRequest { login: login.to_owned(), password: PASSWORD.to_owned(), name: None };
    AuthClient::new(peer.clone()).register(request).await.unwrap().into_inner()
}

async fn login(peer: &Peer, login: &str) -> Session {
    let request = auth::LoginRequest { login: login.to_owned(), password: PASSWORD.to_owned() };
    AuthClient::new(peer.clone()).login(request).await.unwrap().into_inner()
}

/// The same scene with other ids: nothing that is named is there.
fn absent(scene: &Scene) -> Scene {
    let message = dialog::Message {
        id: MessageId::now().bytes(),
        dialog_id: DialogId::now().bytes(),
        ..scene.message.clone()
    };
    Scene {
        dialog: message.dialog_id.clone(),
        message,
        person: scene.person.clone(),
        refresh_token: SessionId::now().to_string(),
        number: 0,
    }
}

#[tokio::test]
async fn every_call_is_open_to_those_of_its_row_and_to_nobody_else() {
    let mut world = World::new().await;
    let (mut cells, mut refused) = (0, 0);
    for row in &TABLE {
        for (who, expected) in EVERYONE.into_iter().zip(row.expected) {
            let scene = world.scene(row).await;
            let caller = if row.ends_sessions { world.newcomer(who).await } else { world.authorization(who) };
            let told = world.call(row.call, caller.as_deref(), &(row.request)(&scene)).await;
            let place = format!("{} for {who:?}: {:?} {}", row.call, told.0, told.1);
            let wanted = match expected {
                Outcome::Done | Outcome::Nothing => Code::Ok,
                Outcome::NotFound => Code::NotFound,
                Outcome::SignIn => Code::Unauthenticated,
                Outcome::ForServices => Code::PermissionDenied,
            };
            assert_eq!(told.0, wanted, "{place}");
            if matches!(expected, Outcome::Nothing | Outcome::NotFound) {
                let nothing = world.call(row.call, caller.as_deref(), &(row.request)(&absent(&scene))).await;
                assert_eq!(nothing, told, "absent and forbidden look the same: {place}");
            }
            cells += 1;
            refused += usize::from(expected != Outcome::Done);
        }
    }
    println!("authorisation among services: {cells} cells tried, {refused} refused");
    world.stop().await;
}

#[test]
fn every_call_of_the_contracts_has_a_row_and_every_row_a_call() {
    let described = prost_types::FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    let mut calls = BTreeSet::new();
    for file in &described.file {
        for service in &file.service {
            let name = |method: &prost_types::MethodDescriptorProto| {
                format!("{}.{}/{}", file.package(), service.name(), method.name())
            };
            calls.extend(service.method.iter().map(name));
        }
    }
    let rows: BTreeSet<_> = TABLE.iter().map(|row| row.call.to_owned()).collect();
    assert_eq!((rows.len(), TABLE.len()), (calls.len(), calls.len()), "one row for each");
    assert_eq!(rows, calls);
}

#[tokio::test]
async fn no_forged_token_is_believed_by_any_service() {
    let world = World::new().await;
    let id = UserId::now().bytes();
    let questions = [
        ("tidings.auth.Auth/Users", auth::UsersRequest { ids: vec![id] }.encode_to_vec()),
        ("tidings.dialog.Dialogs/List", dialog::ListRequest { first: 1, after: None }.encode_to_vec()),
        (
            "tidings.counter.Counters/Unread",
            counter::UnreadRequest { first: 1, at_least: None }.encode_to_vec(),
        ),
    ];
    let stranger = SigningKeys::generate();
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    let (user, session) = (uuid::Uuid::now_v7(), uuid::Uuid::now_v7());
    let theirs = stranger.sign(&access::Claims::new("tidings", user, session, now_s, 60));
    let token = &world.owner.access_token;
    let forged = [
        theirs,
        format!("{token}A"),
        token[..token.len() - 1].to_owned(),
        world.owner.refresh_token.clone(),
        String::new(),
    ];
    for (path, question) in &questions {
        let (code, message, _) = world.call(path, Some(&format!("Bearer {token}")), question).await;
        assert_eq!(code, Code::Ok, "{path}: {message}");
        for token in &forged {
            let (code, ..) = world.call(path, Some(&format!("Bearer {token}")), question).await;
            assert_eq!(code, Code::Unauthenticated, "{path}: {token}");
        }
    }
    world.stop().await;
}
