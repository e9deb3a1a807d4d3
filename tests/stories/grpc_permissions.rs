//! Permissions of the services' gRPC calls, tested for every kind of caller directly on the servers. The
//! protobuf descriptors list the calls: a call without a row in the table fails, and so does a row
//! without a call.

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
    caller::PASSWORD,
    caller_kind::CallerKind,
    grpc_permissions_table::{Outcome, Row, TABLE, Targets},
};

/// The services in this process, each with its own database, and a session for every kind of caller.
struct Fixture {
    auth: Peer,
    dialog: Peer,
    counter: Peer,
    service_token: ServiceToken,
    owner: Session,
    participant: Session,
    left: Session,
    outsider: Session,
    logged_out: Session,
    numbers: usize,
    shutdown: CancellationToken,
    tasks: tokio::task::JoinSet<()>,
    _databases: [TestDb; 3],
}

impl Fixture {
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
        let keys = SigningKeys::generate();
        let service_token = ServiceToken::generate();
        let shutdown = CancellationToken::new();
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
        let dialog = local(dialogs.server());
        let counter = local(counters.server());
        let readiness = Readiness::new();
        let mut tasks = tokio::task::JoinSet::new();
        let peer = counter.clone();
        let token = service_token.clone();
        let stop = shutdown.clone();
        let ready = readiness.register("dialog");
        tasks.spawn(async move { dialogs.run(&log, peer, token, ready, stop).await.unwrap() });
        let peer = dialog.clone();
        let stop = shutdown.clone();
        let ready = readiness.register("counter");
        tasks.spawn(async move { counters.run(peer, ready, stop).await.unwrap() });
        let owner = register(&auth, "ann").await;
        let participant = register(&auth, "bob").await;
        let left = register(&auth, "cleo").await;
        let outsider = register(&auth, "mallory").await;
        let logged_out = login(&auth, "bob").await;
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
            outsider,
            logged_out,
            numbers: 0,
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

    fn authorization(&self, kind: CallerKind) -> Option<String> {
        let of = |session: &Session| Some(format!("Bearer {}", session.access_token));
        match kind {
            CallerKind::Owner => of(&self.owner),
            CallerKind::Participant => of(&self.participant),
            CallerKind::Left => of(&self.left),
            CallerKind::Outsider => of(&self.outsider),
            CallerKind::LoggedOut => of(&self.logged_out),
            CallerKind::Anonymous => None,
            CallerKind::BadToken => of(&self.owner).map(|token| token + "x"),
            CallerKind::Service => Some(self.service_token.header()),
            CallerKind::WrongService => Some(ServiceToken::generate().header()),
        }
    }

    /// Returns the authorization of a new user of this kind, for calls that end the session.
    async fn new_caller(&mut self, kind: CallerKind) -> Option<String> {
        self.numbers += 1;
        match kind {
            CallerKind::Owner | CallerKind::Participant | CallerKind::Left | CallerKind::Outsider => {
                let session = register(&self.auth, &format!("newcomer{}", self.numbers)).await;
                Some(format!("Bearer {}", session.access_token))
            }
            _ => self.authorization(kind),
        }
    }

    /// Calls a service with an encoded message. Returns the status, its message and the encoded reply.
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

    /// Creates a group of the owner, the participant and the user who leaves it, with a message of the
    /// owner. Waits until the counters have applied all of it.
    async fn targets(&mut self, row: &Row) -> Targets {
        self.numbers += 1;
        let id = |session: &Session| session.user.as_ref().unwrap().id.clone();
        let create = dialog::CreateRequest {
            participant_ids: vec![id(&self.participant), id(&self.left)],
            title: Some("three".to_owned()),
            client_key: None,
        };
        let owner = self.authorization(CallerKind::Owner);
        let left = self.authorization(CallerKind::Left);
        let (_, _, reply) =
            self.call("tidings.dialog.Dialogs/Create", owner.as_deref(), &create.encode_to_vec()).await;
        let dialog_id = dialog::Dialog::decode(&reply[5..]).unwrap().id;
        let send = dialog::SendRequest {
            dialog_id: dialog_id.clone(),
            text: "words".to_owned(),
            client_key: None,
            read_up_to: None,
        };
        let (_, _, reply) =
            self.call("tidings.dialog.Dialogs/Send", owner.as_deref(), &send.encode_to_vec()).await;
        let message = dialog::Message::decode(&reply[5..]).unwrap();
        let rows =
            counter::RowsRequest { dialog_ids: vec![dialog_id.clone()], at_least: None }.encode_to_vec();
        let known = async |authorization: &Option<String>| {
            let (_, _, reply) =
                self.call("tidings.counter.Counters/Rows", authorization.as_deref(), &rows).await;
            counter::RowsReply::decode(&reply[5..]).unwrap().rows.first().map(|row| row.last_seq)
        };
        eventually("the counters have applied the message", || async { known(&owner).await == Some(1) })
            .await;
        let leave = dialog::LeaveRequest { dialog_id: dialog_id.clone() };
        self.call("tidings.dialog.Dialogs/Leave", left.as_deref(), &leave.encode_to_vec()).await;
        eventually("the counters have applied the departure", || async { known(&left).await.is_none() })
            .await;
        let refreshes = row.call.ends_with("Refresh");
        let session = if refreshes { login(&self.auth, "mallory").await } else { self.outsider.clone() };
        let ends = row.call.ends_with("EndSession");
        let to_end = if ends { login(&self.auth, "ann").await } else { self.owner.clone() };
        Targets {
            dialog: dialog_id,
            message,
            other_user: id(&self.outsider),
            refresh_token: session.refresh_token,
            session: to_end.session_id,
            number: self.numbers,
        }
    }
}

async fn register(peer: &Peer, login: &str) -> Session {
    let request = auth::RegisterRequest {
        login: login.to_owned(),
        password: PASSWORD.to_owned(),
        ..Default::default()
    };
    AuthClient::new(peer.clone()).register(request).await.unwrap().into_inner()
}

async fn login(peer: &Peer, login: &str) -> Session {
    let request =
        auth::LoginRequest { login: login.to_owned(), password: PASSWORD.to_owned(), ..Default::default() };
    AuthClient::new(peer.clone()).login(request).await.unwrap().into_inner()
}

/// Returns targets that do not exist, for the same caller.
fn absent(targets: &Targets) -> Targets {
    let message = dialog::Message {
        id: MessageId::now().bytes(),
        dialog_id: DialogId::now().bytes(),
        ..targets.message.clone()
    };
    Targets {
        dialog: message.dialog_id.clone(),
        message,
        other_user: targets.other_user.clone(),
        refresh_token: SessionId::now().to_string(),
        session: SessionId::now().bytes(),
        number: 0,
    }
}

#[tokio::test]
async fn every_call_is_allowed_to_exactly_the_callers_of_its_row() {
    let mut fixture = Fixture::new().await;
    let mut cases = 0;
    let mut rejected = 0;
    for row in &TABLE {
        for (kind, expected) in CallerKind::ALL.into_iter().zip(row.expected) {
            let targets = fixture.targets(row).await;
            let authorization =
                if row.ends_sessions { fixture.new_caller(kind).await } else { fixture.authorization(kind) };
            let response = fixture.call(row.call, authorization.as_deref(), &(row.request)(&targets)).await;
            let case = format!("{} for {kind:?}: {:?} {}", row.call, response.0, response.1);
            let expected_code = match expected {
                Outcome::Done | Outcome::Nothing => Code::Ok,
                Outcome::NotFound => Code::NotFound,
                Outcome::Unauthenticated => Code::Unauthenticated,
                Outcome::PermissionDenied => Code::PermissionDenied,
            };
            assert_eq!(response.0, expected_code, "{case}");
            if matches!(expected, Outcome::Nothing | Outcome::NotFound) {
                let nothing =
                    fixture.call(row.call, authorization.as_deref(), &(row.request)(&absent(&targets))).await;
                assert_eq!(nothing, response, "absent and forbidden look the same: {case}");
            }
            cases += 1;
            rejected += usize::from(expected != Outcome::Done);
        }
    }
    println!("permissions of gRPC calls: {cases} cases, {rejected} rejected");
    fixture.stop().await;
}

#[test]
fn calls_and_rows_correspond() {
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
    assert_eq!((rows.len(), TABLE.len()), (calls.len(), calls.len()), "one row for each call");
    assert_eq!(rows, calls);
}

#[tokio::test]
async fn every_service_rejects_invalid_tokens() {
    let fixture = Fixture::new().await;
    let id = UserId::now().bytes();
    let requests = [
        ("tidings.auth.Auth/Users", auth::UsersRequest { ids: vec![id] }.encode_to_vec()),
        (
            "tidings.dialog.Dialogs/List",
            dialog::ListRequest { first: 1, after: None, participants_first: None }.encode_to_vec(),
        ),
        (
            "tidings.counter.Counters/Unread",
            counter::UnreadRequest { first: 1, at_least: None }.encode_to_vec(),
        ),
    ];
    let foreign_keys = SigningKeys::generate();
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    let user = uuid::Uuid::now_v7();
    let session = uuid::Uuid::now_v7();
    let foreign = foreign_keys.sign(&access::Claims::new("tidings", user, session, now_s, 60));
    let token = &fixture.owner.access_token;
    let forged = [
        foreign,
        format!("{token}A"),
        token[..token.len() - 1].to_owned(),
        fixture.owner.refresh_token.clone(),
        String::new(),
    ];
    for (path, request) in &requests {
        let (code, message, _) = fixture.call(path, Some(&format!("Bearer {token}")), request).await;
        assert_eq!(code, Code::Ok, "{path}: {message}");
        for token in &forged {
            let (code, ..) = fixture.call(path, Some(&format!("Bearer {token}")), request).await;
            assert_eq!(code, Code::Unauthenticated, "{path}: {token}");
        }
    }
    fixture.stop().await;
}
