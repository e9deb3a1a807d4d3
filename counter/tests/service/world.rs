//! A running counter with a log of its own, an auth that signs tokens and a dialog service that answers what it is told.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{SystemTime, UNIX_EPOCH},
};

use access::{BoxError, Claims, Guard, KeySet, ServiceToken, SigningKeys};
use counter::{App, Cache};
use events::{Event, Headers, Local, Log, Stopped, Tail, outbox};
use proto::{
    DialogId, UserId,
    counter::{
        MarkReadReply, MarkReadRequest, UnreadReply, UnreadRequest, Version, counters_client::CountersClient,
    },
    dialog::{ChangesSinceReply, ChangesSinceRequest},
    events::event::Kind,
    topic,
};
use telemetry::{Call, Readiness};
use testkit::{TestDb, eventually};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::{Grpc, UnaryService},
    service::interceptor::InterceptedService,
};

/// Everything around one counter.
pub(crate) struct World {
    app: App,
    log: Log,
    /// Holds the outboxes of auth and dialog.
    neighbours: TestDb,
    /// The counter's own.
    database: TestDb,
    keys: SigningKeys,
    service_token: ServiceToken,
    dialog: Dialog,
    /// What the counter says about itself.
    pub(crate) readiness: Readiness,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), Stopped>>,
}

/// A running counter on every kind of database, and with its cache in Redis where there is one.
pub(crate) async fn databases() -> Vec<World> {
    let mut worlds = Vec::new();
    for database in testkit::databases(MIGRATIONS).await {
        worlds.push(World::start(database, Cache::in_process()).await);
    }
    if let Some(url) = testkit::redis_url() {
        worlds.push(World::cached_at(&url).await);
    }
    worlds
}

const MIGRATIONS: &[&db::Migrations] = &[&db::MIGRATIONS, &events::MIGRATIONS, &counter::MIGRATIONS];

impl World {
    /// On SQLite, with its cache in the Redis at this URL.
    pub(crate) async fn cached_at(url: &str) -> Self {
        Self::start(testkit::sqlite(MIGRATIONS).await, Cache::redis(url).expect("it is a URL")).await
    }

    async fn start(database: TestDb, cache: Cache) -> Self {
        let neighbours = testkit::sqlite(&[&db::MIGRATIONS, &events::MIGRATIONS]).await;
        let (own, foreign) = (&database.db, &neighbours.db);
        let topics = [(topic::COUNTER, own), (topic::UNREAD, own), (topic::DEAD, own)];
        let topics = topics.into_iter().chain([(topic::AUTH, foreign), (topic::DIALOG, foreign)]);
        let log = Log::Local(Local::new(topics.map(|(topic, db)| (topic, db.clone())).collect()));
        let (keys, service_token) = (SigningKeys::generate(), ServiceToken::generate());
        let jwks = keys.jwks();
        let set = KeySet::new(move || std::future::ready(Ok::<String, BoxError>(jwks.clone())));
        let guard = Guard::new(set, service_token.clone(), "tidings");
        let app = App::new(own.clone(), log.clone(), cache, guard, service_token.clone());
        let (dialog, readiness, shutdown) = (Dialog::default(), Readiness::new(), CancellationToken::new());
        let component = readiness.register("consumer");
        let running = tokio::spawn({
            let (app, dialog, shutdown) = (app.clone(), proto::local(dialog.clone()), shutdown.clone());
            async move { app.run(dialog, component, shutdown).await }
        });
        Self { app, log, neighbours, database, keys, service_token, dialog, readiness, shutdown, running }
    }

    /// The same counter started anew, while its neighbours have lost all that they told.
    pub(crate) async fn among_strangers(self) -> Self {
        self.shutdown.cancel();
        self.running.await.expect("no task panics").expect("the log is the known one");
        Self::start(self.database, Cache::in_process()).await
    }

    /// Shuts down a counter that has stopped counting, and says why it had.
    pub(crate) async fn stopped(self) -> String {
        self.shutdown.cancel();
        self.running.await.expect("no task panics").expect_err("it has stopped").to_string()
    }

    /// Shuts down and sees that everything ends.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.expect("no task panics").expect("the log is the known one");
        self.database.db.close().await;
    }

    /// A client with this authorization.
    pub(crate) fn client(
        &self,
        authorization: &str,
    ) -> CountersClient<InterceptedService<proto::Peer, Call>> {
        let call = Call::new().with_authorization(authorization);
        CountersClient::with_interceptor(proto::local(self.app.server()), call)
    }

    pub(crate) fn token_of(&self, user_id: UserId) -> String {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64;
        let claims = Claims::new("tidings", user_id.uuid(), uuid::Uuid::now_v7(), now_s, 60);
        format!("Bearer {}", self.keys.sign(&claims))
    }

    pub(crate) fn service_token(&self) -> String {
        self.service_token.header()
    }

    pub(crate) async fn tail(&self, topics: &[&'static str]) -> Tail {
        self.log.tail(topics).await.expect("the log can be read")
    }

    pub(crate) async fn emit(&self, topic: &'static str, kinds: Vec<Kind>) {
        for kind in kinds {
            self.emit_bytes(topic, kind.payload()).await;
        }
    }

    pub(crate) async fn emit_bytes(&self, topic: &'static str, payload: Vec<u8>) {
        let headers = Headers { request_id: Some("cause".into()), traceparent: None };
        let event_id = uuid::Uuid::now_v7();
        let event = Event { event_id, topic, key: "key".into(), version: 0, kind: "Test", payload, headers };
        let mut tx = self.neighbours.db.begin().await.expect("the neighbours' database is there");
        outbox::append(&mut tx, &[event]).await.expect("the outbox takes it");
        tx.commit().await.expect("it commits");
    }

    pub(crate) async fn unread(
        &self,
        user_id: UserId,
        at_least: Option<Version>,
    ) -> Result<UnreadReply, Status> {
        let request = UnreadRequest { first: 1_000, at_least };
        Ok(self.client(&self.token_of(user_id)).unread(request).await?.into_inner())
    }

    pub(crate) async fn read(
        &self,
        user_id: UserId,
        dialog_id: DialogId,
        seq: i64,
    ) -> Result<MarkReadReply, Status> {
        let request = MarkReadRequest { dialog_id: dialog_id.bytes(), seq };
        Ok(self.client(&self.token_of(user_id)).mark_read(request).await?.into_inner())
    }

    /// Waits until everything emitted so far is counted and this user's total is this.
    pub(crate) async fn unread_is(&self, user_id: UserId, total: i64) {
        let what = format!("{}: the total is {total}", self.database.name);
        eventually(&what, || async { self.unread(user_id, None).await.expect("an answer").total == total })
            .await;
    }

    pub(crate) fn dialog_answers(&self, reply: ChangesSinceReply) {
        self.dialog.0.lock().expect("nobody panicked").reply = reply;
    }

    /// Which dialogs were asked about, since which version.
    pub(crate) fn dialog_was_asked(&self) -> Vec<(DialogId, i64)> {
        self.dialog.0.lock().expect("nobody panicked").asked.clone()
    }
}

/// The dialog service as far as the counter knows it: one method.
#[derive(Clone, Default)]
struct Dialog(Arc<Mutex<Answers>>);

#[derive(Default)]
struct Answers {
    reply: ChangesSinceReply,
    asked: Vec<(DialogId, i64)>,
}

impl UnaryService<ChangesSinceRequest> for Dialog {
    type Response = ChangesSinceReply;
    type Future = std::future::Ready<Result<Response<ChangesSinceReply>, Status>>;

    fn call(&mut self, request: Request<ChangesSinceRequest>) -> Self::Future {
        let request = request.into_inner();
        let mut answers = self.0.lock().expect("nobody panicked");
        answers.asked.push((DialogId::parse(&request.dialog_id).expect("an id"), request.since));
        std::future::ready(Ok(Response::new(answers.reply.clone())))
    }
}

impl Service<http::Request<Body>> for Dialog {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        assert_eq!(request.uri().path(), "/tidings.dialog.Dialogs/ChangesSince");
        let dialog = self.clone();
        Box::pin(
            async move { Ok(Grpc::new(tonic_prost::ProstCodec::default()).unary(dialog, request).await) },
        )
    }
}
