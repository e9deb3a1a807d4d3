//! Test fixture: a running counter on its own databases and event log, with valid access tokens and a
//! fake dialog service.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use access::{BoxError, Claims, Guard, KeySet, ServiceToken, SigningKeys};
use counter::{App, Cache};
use db::{Dialect, query};
use events::{Event, Headers, Local, Log, Stopped, Tail, outbox};
use parking_lot::Mutex;
use prost::Message;
use proto::{
    DialogId, UserId,
    counter::{
        MarkReadReply, MarkReadRequest, UnreadReply, UnreadRequest, Version, counters_client::CountersClient,
    },
    dialog::{ChangesSinceReply, ChangesSinceRequest, DialogVersion, DialogVersionsReply},
    events::event::Kind,
    topic,
};
use telemetry::{Call, Readiness, recorder};
use testkit::{FakeGrpc, TestDb, eventually};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Status, service::interceptor::InterceptedService};

const MIGRATIONS: &[&db::Migrations] = &[&db::MIGRATIONS, &events::MIGRATIONS, &counter::MIGRATIONS];

/// A running counter and everything that it uses.
pub(crate) struct TestApp {
    app: App,
    log: Log,
    /// Database with the outboxes of auth and dialog.
    upstream: TestDb,
    database: TestDb,
    keys: SigningKeys,
    service_token: ServiceToken,
    dialog: FakeDialog,
    pub(crate) readiness: Readiness,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), Stopped>>,
}

/// Starts a counter on every kind of database, and one with its cache in Redis if `TEST_REDIS_URL` is
/// set.
pub(crate) async fn test_apps() -> Vec<TestApp> {
    let mut apps = Vec::new();
    for database in testkit::databases(MIGRATIONS).await {
        apps.push(TestApp::start(database, Cache::in_process()).await);
    }
    if let Some(url) = testkit::redis_url() {
        apps.push(TestApp::with_redis(&url).await);
    }
    apps
}

impl TestApp {
    /// Starts a counter on SQLite with its cache in the Redis at this URL.
    pub(crate) async fn with_redis(url: &str) -> Self {
        let cache = Cache::redis(url).expect("the URL of the test's Redis is valid");
        Self::start(testkit::sqlite(MIGRATIONS).await, cache).await
    }

    async fn start(database: TestDb, cache: Cache) -> Self {
        recorder::install();
        let upstream = testkit::sqlite(&[&db::MIGRATIONS, &events::MIGRATIONS]).await;
        Self::start_on(upstream, database, cache, FakeDialog::default()).await
    }

    async fn start_on(upstream: TestDb, database: TestDb, cache: Cache, dialog: FakeDialog) -> Self {
        let own = [topic::COUNTER, topic::UNREAD, topic::DEAD].map(|topic| (topic, database.db.clone()));
        let others = [topic::AUTH, topic::DIALOG].map(|topic| (topic, upstream.db.clone()));
        let log = Log::Local(Local::new(own.into_iter().chain(others).collect()));
        let keys = SigningKeys::generate();
        let service_token = ServiceToken::generate();
        let jwks = keys.jwks();
        let key_set = KeySet::new(move || std::future::ready(Ok::<String, BoxError>(jwks.clone())));
        let guard = Guard::new(key_set, service_token.clone(), "tidings");
        let app = App::new(database.db.clone(), log.clone(), cache, guard, service_token.clone());
        let readiness = Readiness::new();
        let shutdown = CancellationToken::new();
        let component = readiness.register("consumer");
        let running = tokio::spawn({
            let app = app.clone();
            let peer = dialog.peer();
            let shutdown = shutdown.clone();
            async move { app.run(peer, component, shutdown).await }
        });
        Self { app, log, upstream, database, keys, service_token, dialog, readiness, shutdown, running }
    }

    /// Restarts the counter on its own database, but with empty logs of auth and dialog.
    pub(crate) async fn restart_with_lost_upstream(self) -> Self {
        self.shutdown.cancel();
        self.running.await.expect("the counter does not panic").expect("the log is the known one");
        Self::start(self.database, Cache::in_process()).await
    }

    /// Stops the counter, publishes events, deletes all of these but the last, and starts it again.
    pub(crate) async fn restart_with_cut_log(mut self, events: Vec<Kind>) -> Self {
        self.shutdown.cancel();
        (&mut self.running).await.expect("the counter does not panic").expect("the log is the known one");
        self.publish(topic::DIALOG, events).await;
        let mut tx = self.upstream.db.begin().await.expect("the upstream database answers");
        let cut = db::query("delete from outbox where id < (select max(id) from outbox)");
        cut.execute(&mut tx).await.expect("the rows can be deleted");
        tx.commit().await.expect("the transaction commits");
        Self::start_on(self.upstream, self.database, Cache::in_process(), self.dialog).await
    }

    /// Shuts down a counter whose consumer has stopped. Returns the reason.
    pub(crate) async fn shut_down_stopped(self) -> String {
        self.shutdown.cancel();
        let result = self.running.await.expect("the counter does not panic");
        result.expect_err("the consumer has stopped").to_string()
    }

    /// Shuts down and waits until all tasks have ended.
    pub(crate) async fn shut_down(self) {
        self.shutdown.cancel();
        self.running.await.expect("the counter does not panic").expect("the log is the known one");
        self.database.db.close().await;
    }

    /// Returns a client that sends this authorization header.
    pub(crate) fn client(
        &self,
        authorization: &str,
    ) -> CountersClient<InterceptedService<proto::Peer, Call>> {
        let call = Call::new().with_authorization(authorization);
        CountersClient::with_interceptor(proto::local(self.app.server()), call)
    }

    /// Returns the authorization header of a user.
    pub(crate) fn token_of(&self, user_id: UserId) -> String {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64;
        let claims = Claims::new("tidings", user_id.uuid(), uuid::Uuid::now_v7(), now_s, 60);
        format!("Bearer {}", self.keys.sign(&claims))
    }

    /// Returns the authorization header of a service.
    pub(crate) fn service_token(&self) -> String {
        self.service_token.header()
    }

    pub(crate) async fn tail(&self, topics: &[&'static str]) -> Tail {
        self.log.tail(topics).await.expect("the log can be read")
    }

    /// Publishes events as auth or dialog would.
    pub(crate) async fn publish(&self, topic: &'static str, kinds: Vec<Kind>) {
        for kind in kinds {
            self.publish_bytes(topic, kind.payload()).await;
        }
    }

    pub(crate) async fn publish_bytes(&self, topic: &'static str, payload: Vec<u8>) {
        let headers = Headers { request_id: Some("cause".into()), traceparent: None };
        let event_id = uuid::Uuid::now_v7();
        let event = Event { event_id, topic, key: "key".into(), version: 0, kind: "Test", payload, headers };
        let mut tx = self.upstream.db.begin().await.expect("the upstream database answers");
        outbox::append(&mut tx, &[event]).await.expect("the event can be appended");
        tx.commit().await.expect("the transaction commits");
    }

    pub(crate) async fn unread(
        &self,
        user_id: UserId,
        at_least: Option<Version>,
    ) -> Result<UnreadReply, Status> {
        let request = UnreadRequest { first: 1_000, at_least };
        Ok(self.client(&self.token_of(user_id)).unread(request).await?.into_inner())
    }

    pub(crate) async fn mark_read(
        &self,
        user_id: UserId,
        dialog_id: DialogId,
        seq: i64,
    ) -> Result<MarkReadReply, Status> {
        let request = MarkReadRequest { dialog_id: dialog_id.bytes(), seq };
        Ok(self.client(&self.token_of(user_id)).mark_read(request).await?.into_inner())
    }

    /// Executes a statement, given for each kind of database, as an operator would.
    pub(crate) async fn execute(&self, sqlite: &'static str, postgres: &'static str) {
        let mut tx = self.database.db.begin().await.expect("the counter's database answers");
        let statement = match tx.dialect() {
            Dialect::Sqlite => sqlite,
            Dialect::Postgres => postgres,
        };
        query(statement).execute(&mut tx).await.expect("the statement is valid");
        tx.commit().await.expect("the transaction commits");
    }

    /// Returns a metric of this process, summed over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = recorder::install().render();
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let value = |line: &str| line.rsplit_once(' ').expect("a value").1.parse::<f64>().expect("a number");
        text.lines().filter(of_name).map(value).sum()
    }

    /// Waits until a user's total is `total`.
    pub(crate) async fn wait_for_total(&self, user_id: UserId, total: i64) {
        let what = format!("{}: the total is {total}", self.database.name);
        eventually(&what, || async {
            self.unread(user_id, None).await.expect("the counter answers").total == total
        })
        .await;
    }

    /// Sets the reply of the fake dialog service to ChangesSince.
    pub(crate) fn set_changes(&self, reply: ChangesSinceReply) {
        self.dialog.0.lock().reply = reply;
    }

    /// Sets the reply of the fake dialog service to DialogVersions; until then it is unavailable.
    pub(crate) fn set_versions(&self, versions: Vec<DialogVersion>) {
        self.dialog.0.lock().versions = Some(DialogVersionsReply { dialogs: versions });
    }

    /// Returns the calls of ChangesSince so far: dialog and `since`.
    pub(crate) fn changes_since_calls(&self) -> Vec<(DialogId, i64)> {
        self.dialog.0.lock().calls.clone()
    }
}

/// Fake dialog service with the methods that the counter calls, ChangesSince and DialogVersions.
#[derive(Clone, Default)]
struct FakeDialog(Arc<Mutex<FakeChanges>>);

#[derive(Default)]
struct FakeChanges {
    reply: ChangesSinceReply,
    versions: Option<DialogVersionsReply>,
    calls: Vec<(DialogId, i64)>,
}

impl FakeDialog {
    fn peer(&self) -> proto::Peer {
        let changes = Arc::clone(&self.0);
        proto::local(FakeGrpc::from_fn(move |method, message| {
            if method == "DialogVersions" {
                let versions = changes.lock().versions.clone();
                return versions.map(|reply| reply.encode_to_vec()).ok_or(Status::unavailable("away"));
            }
            assert_eq!(method, "ChangesSince");
            let request = ChangesSinceRequest::decode(message).expect("the request can be decoded");
            let mut changes = changes.lock();
            changes.calls.push((DialogId::parse(&request.dialog_id).expect("a valid id"), request.since));
            Ok(changes.reply.encode_to_vec())
        }))
    }
}
