//! Fixture: the dialog service over an empty database, fake auth and counter services, and users with
//! access tokens.

use std::{convert::Infallible, future::ready, sync::Arc, time::Duration};

use access::{Claims, Guard, KeySet, ServiceToken, SigningKeys};
use db::Db;
use dialog::{App, Settings};
use events::{Event, Headers, Local, Log, Stopped, outbox};
use proto::{
    Peer, UserId,
    dialog::{
        CreateRequest, Dialog, GetRequest, HistoryPage, HistoryPageReply, HistoryRequest, Message,
        MessagesRequest, SendRequest, dialogs_client::DialogsClient,
    },
    events::event::Kind,
    local, topic,
};
use telemetry::{Call, grpc::server_layer};
use testkit::{TestDb, databases, sqlite};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, service::interceptor::InterceptedService};
use tower::Layer;

use crate::{fake_auth::FakeAuth, fake_counter::FakeCounter};

const ISSUER: &str = "tidings";

pub type Client = DialogsClient<InterceptedService<Peer, Call>>;

/// Running dialog service with its surroundings.
pub struct Fixture {
    /// Name of the database engine, for assertion messages.
    pub name: &'static str,
    pub db: Db,
    pub auth: FakeAuth,
    pub counter: FakeCounter,
    pub token: ServiceToken,
    app: App,
    keys: Arc<SigningKeys>,
    counter_outbox: TestDb,
    _test: TestDb,
}

/// Creates a fixture on each database engine.
pub async fn fixtures() -> Vec<Fixture> {
    fixtures_with(Duration::from_secs(600)).await
}

/// Creates a fixture on each database engine, with this saga deadline.
pub async fn fixtures_with(saga_deadline: Duration) -> Vec<Fixture> {
    let mut fixtures = Vec::new();
    for test in databases(&[&db::MIGRATIONS, &events::MIGRATIONS, &dialog::MIGRATIONS]).await {
        let keys = Arc::new(SigningKeys::generate());
        let token = ServiceToken::generate();
        let auth = FakeAuth::default();
        let jwks = keys.jwks();
        let key_set = KeySet::new(move || ready(Ok::<_, Infallible>(jwks.clone())));
        let guard = Guard::new(key_set, token.clone(), ISSUER);
        let app = App::new(test.db.clone(), guard, auth.peer(), Settings { saga_deadline });
        let counter_outbox = sqlite(&[&db::MIGRATIONS, &events::MIGRATIONS]).await;
        let name = test.name;
        let db = test.db.clone();
        let counter = FakeCounter::default();
        fixtures.push(Fixture { name, db, auth, counter, token, app, keys, counter_outbox, _test: test });
    }
    fixtures
}

impl Fixture {
    /// Creates a user and registers it with auth.
    pub fn user(&self) -> TestUser {
        let user = self.unregistered_user();
        self.auth.register(user.id);
        user
    }

    /// Creates a user with a valid access token who is unknown to auth.
    pub fn unregistered_user(&self) -> TestUser {
        let id = UserId::now();
        let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let claims = Claims::new(ISSUER, id.uuid(), UserId::now().uuid(), now_s as i64, 3600);
        let authorization = format!("Bearer {}", self.keys.sign(&claims));
        TestUser { id, client: self.client(&authorization), authorization }
    }

    /// Returns a client with this authorization header.
    pub fn client(&self, authorization: &str) -> Client {
        let call = Call::new().with_authorization(authorization);
        DialogsClient::with_interceptor(local(server_layer("dialog").layer(self.app.server())), call)
    }

    /// Returns a client with the service token.
    pub fn service_client(&self) -> Client {
        self.client(&self.token.header())
    }

    /// Starts the consumer of replies and the sweeper.
    pub fn start_background(&self) -> BackgroundTasks {
        let log = Log::Local(Local::new(vec![(topic::COUNTER, self.counter_outbox.db.clone())]));
        let app = self.app.clone();
        let shutdown = CancellationToken::new();
        let counter = self.counter.peer();
        let token = self.token.clone();
        let stop = shutdown.clone();
        let component = telemetry::Readiness::new().register("replies");
        let task = tokio::spawn(async move { app.run(&log, counter, token, component, shutdown).await });
        BackgroundTasks { stop, task }
    }

    /// Appends an event of the counter to the log.
    pub async fn publish_reply(&self, kind: Kind) {
        self.publish_payload(kind.payload()).await;
    }

    /// Appends a record with this payload to the counter's topic. The payload need not be a valid event.
    pub async fn publish_payload(&self, payload: Vec<u8>) {
        let event = Event {
            event_id: uuid::Uuid::now_v7(),
            topic: topic::COUNTER,
            key: "key".to_owned(),
            version: 0,
            kind: "Reply",
            payload,
            headers: Headers { request_id: Some("cause".to_owned()), traceparent: None },
        };
        let mut tx = self.counter_outbox.db.begin().await.unwrap();
        outbox::append(&mut tx, &[event]).await.unwrap();
        tx.commit().await.unwrap();
    }
}

/// Background work of the service.
pub struct BackgroundTasks {
    stop: CancellationToken,
    task: JoinHandle<Result<(), Stopped>>,
}

impl BackgroundTasks {
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// User with an access token, and a client that sends it.
#[derive(Clone)]
pub struct TestUser {
    pub id: UserId,
    pub authorization: String,
    client: Client,
}

impl TestUser {
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    pub async fn try_create(
        &self,
        others: &[&Self],
        title: Option<&str>,
        client_key: Option<&str>,
    ) -> Result<Dialog, Status> {
        let request = CreateRequest {
            participant_ids: others.iter().map(|user| user.id.bytes()).collect(),
            title: title.map(str::to_owned),
            client_key: client_key.map(str::to_owned),
        };
        Ok(self.client().create(request).await?.into_inner())
    }

    /// Creates or returns the direct dialog with another user.
    pub async fn direct(&self, other: &Self) -> Dialog {
        self.try_create(&[other], None, None).await.unwrap()
    }

    /// Creates a group with others.
    pub async fn group(&self, others: &[&Self]) -> Dialog {
        self.try_create(others, Some("group"), None).await.unwrap()
    }

    pub async fn try_send(
        &self,
        dialog: &[u8],
        text: &str,
        client_key: Option<&str>,
    ) -> Result<Message, Status> {
        let client_key = client_key.map(str::to_owned);
        let request =
            SendRequest { dialog_id: dialog.to_vec(), text: text.to_owned(), client_key, read_up_to: None };
        Ok(self.client().send(request).await?.into_inner())
    }

    pub async fn send(&self, dialog: &[u8], text: &str) -> Message {
        self.try_send(dialog, text, None).await.unwrap()
    }

    /// Returns a dialog as this user sees it.
    pub async fn get(&self, dialog: &[u8]) -> Option<Dialog> {
        let reply = self.client().get(GetRequest { ids: vec![dialog.to_vec()] }).await.unwrap();
        reply.into_inner().dialogs.pop()
    }

    /// Returns a message as this user sees it.
    pub async fn message(&self, id: &[u8]) -> Option<Message> {
        let request = MessagesRequest { ids: vec![id.to_vec()], transaction_ids: Vec::new() };
        self.client().messages(request).await.unwrap().into_inner().messages.pop()
    }

    /// Returns a page of history.
    pub async fn page(&self, page: HistoryPage) -> HistoryPageReply {
        let reply = self.client().history(HistoryRequest { pages: vec![page] }).await.unwrap();
        reply.into_inner().pages.pop().unwrap()
    }

    /// Returns the newest 100 messages of the history.
    pub async fn history(&self, dialog: &[u8]) -> Vec<Message> {
        let page = HistoryPage { dialog_id: dialog.to_vec(), last: Some(100), ..HistoryPage::default() };
        self.page(page).await.messages
    }
}

/// Returns the code of a failed call. Panics if it succeeded or has no message.
#[track_caller]
pub fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    let status = result.expect_err("the call fails");
    assert!(!status.message().is_empty());
    status.code()
}
