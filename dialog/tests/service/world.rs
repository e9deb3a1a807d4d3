//! A world of a test's own: the service over a fresh database, people with access tokens, and the services around it.

use std::{sync::Arc, time::Duration};

use access::{Claims, Guard, KeySet, ServiceToken, SigningKeys};
use db::Db;
use dialog::{App, Settings};
use events::{Event, Headers, Local, Log, Stopped, outbox};
use proto::{
    Peer, UserId,
    auth::auth_server::AuthServer,
    counter::counters_server::CountersServer,
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

use crate::{auth::Directory, counter::Ledger};

const ISSUER: &str = "tidings";

pub type Client = DialogsClient<InterceptedService<Peer, Call>>;

pub struct World {
    pub name: &'static str,
    pub db: Db,
    pub auth: Directory,
    pub ledger: Ledger,
    pub token: ServiceToken,
    app: App,
    keys: Arc<SigningKeys>,
    counter_outbox: TestDb,
    _test: TestDb,
}

/// A world on every database.
pub async fn worlds() -> Vec<World> {
    worlds_with(Duration::from_secs(600)).await
}

/// A world on every database, with this deadline of sagas.
pub async fn worlds_with(saga_deadline: Duration) -> Vec<World> {
    let mut worlds = Vec::new();
    for test in databases(&[&db::MIGRATIONS, &events::MIGRATIONS, &dialog::MIGRATIONS]).await {
        let (keys, token, auth) =
            (Arc::new(SigningKeys::generate()), ServiceToken::generate(), Directory::default());
        let published = keys.jwks();
        let key_set = KeySet::new(move || {
            let published = published.clone();
            async move { Ok::<_, std::io::Error>(published) }
        });
        let guard = Guard::new(key_set, token.clone(), ISSUER);
        let peer = local(AuthServer::new(auth.clone()));
        let app = App::new(test.db.clone(), guard, peer, Settings { saga_deadline });
        let counter_outbox = sqlite(&[&db::MIGRATIONS, &events::MIGRATIONS]).await;
        let (name, db, ledger) = (test.name, test.db.clone(), Ledger::default());
        worlds.push(World { name, db, auth, ledger, token, app, keys, counter_outbox, _test: test });
    }
    worlds
}

impl World {
    /// A person whom auth knows.
    pub fn person(&self) -> Person {
        let person = self.stranger();
        self.auth.register(person.id);
        person
    }

    /// A person with a token whom auth does not know.
    pub fn stranger(&self) -> Person {
        let id = UserId::now();
        let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let claims = Claims::new(ISSUER, id.uuid(), UserId::now().uuid(), now_s as i64, 3600);
        let authorization = format!("Bearer {}", self.keys.sign(&claims));
        Person { id, client: self.client(&authorization), authorization }
    }

    /// The client of whoever shows this.
    pub fn client(&self, authorization: &str) -> Client {
        let call = Call::new().with_authorization(authorization);
        DialogsClient::with_interceptor(local(server_layer("dialog").layer(self.app.server())), call)
    }

    /// The client of another service.
    pub fn service(&self) -> Client {
        self.client(&self.token.header())
    }

    /// The loops in the background.
    pub fn start(&self) -> Running {
        let log = Log::Local(Local::new(vec![(topic::COUNTER, self.counter_outbox.db.clone())]));
        let (app, shutdown) = (self.app.clone(), CancellationToken::new());
        let (counter, token) = (local(CountersServer::new(self.ledger.clone())), self.token.clone());
        let (stop, component) = (shutdown.clone(), telemetry::Readiness::new().register("replies"));
        let task = tokio::spawn(async move { app.run(&log, counter, token, component, shutdown).await });
        Running { stop, task }
    }

    /// The counters tell the log something.
    pub async fn tell(&self, kind: Kind) {
        self.tell_bytes(kind.payload()).await;
    }

    /// The counters tell the log something, whatever that is.
    pub async fn tell_bytes(&self, payload: Vec<u8>) {
        let event = Event {
            event_id: uuid::Uuid::now_v7(),
            topic: topic::COUNTER,
            key: "key".to_owned(),
            version: 0,
            kind: "Told",
            payload,
            headers: Headers { request_id: Some("cause".to_owned()), traceparent: None },
        };
        let mut tx = self.counter_outbox.db.begin().await.unwrap();
        outbox::append(&mut tx, &[event]).await.unwrap();
        tx.commit().await.unwrap();
    }
}

pub struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), Stopped>>,
}

impl Running {
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

#[derive(Clone)]
pub struct Person {
    pub id: UserId,
    pub authorization: String,
    client: Client,
}

impl Person {
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
            participant_ids: others.iter().map(|person| person.id.bytes()).collect(),
            title: title.map(str::to_owned),
            client_key: client_key.map(str::to_owned),
        };
        Ok(self.client().create(request).await?.into_inner())
    }

    /// The direct dialog with another.
    pub async fn direct(&self, other: &Self) -> Dialog {
        self.try_create(&[other], None, None).await.unwrap()
    }

    /// A group with others.
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
        let request = SendRequest { dialog_id: dialog.to_vec(), text: text.to_owned(), client_key };
        Ok(self.client().send(request).await?.into_inner())
    }

    pub async fn send(&self, dialog: &[u8], text: &str) -> Message {
        self.try_send(dialog, text, None).await.unwrap()
    }

    /// A dialog as the person sees it.
    pub async fn get(&self, dialog: &[u8]) -> Option<Dialog> {
        let reply = self.client().get(GetRequest { ids: vec![dialog.to_vec()] }).await.unwrap();
        reply.into_inner().dialogs.pop()
    }

    /// A message as the person sees it.
    pub async fn message(&self, id: &[u8]) -> Option<Message> {
        let request = MessagesRequest { ids: vec![id.to_vec()], transaction_ids: Vec::new() };
        self.client().messages(request).await.unwrap().into_inner().messages.pop()
    }

    /// A page of history.
    pub async fn page(&self, page: HistoryPage) -> HistoryPageReply {
        let reply = self.client().history(HistoryRequest { pages: vec![page] }).await.unwrap();
        reply.into_inner().pages.pop().unwrap()
    }

    /// The newest hundred messages that the person finds.
    pub async fn history(&self, dialog: &[u8]) -> Vec<Message> {
        let page = HistoryPage { dialog_id: dialog.to_vec(), last: Some(100), ..HistoryPage::default() };
        self.page(page).await.messages
    }
}

/// The code of an answer that is to be an error, with words for people.
#[track_caller]
pub fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    let status = answer.expect_err("an error");
    assert!(!status.message().is_empty());
    status.code()
}
