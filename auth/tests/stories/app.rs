//! The service under test, with a database of its own, its callers and the events that it wrote.

use std::time::Duration;

use access::{AUDIENCE, Claims, ServiceToken, SigningKeys};
use auth::{App, Settings};
use events::{Local, Record, Tail};
use proto::{
    Peer,
    auth::{LoginRequest, RefreshRequest, RegisterRequest, Session, auth_client::AuthClient},
    events::event::Kind,
    local, topic,
};
use telemetry::{Call, grpc::server_layer};
use testkit::TestDb;
use tonic::{Code, Status, service::interceptor::InterceptedService};
use tower_layer::Layer;
use uuid::Uuid;

pub const PASSWORD: &str = "correct horse";
pub const ISSUER: &str = "tidings";
pub const HOUR: Duration = Duration::from_secs(3_600);

pub type Client = AuthClient<InterceptedService<Peer, Call>>;

pub struct Service {
    /// Which database it runs on.
    pub name: &'static str,
    pub keys: SigningKeys,
    pub service_token: ServiceToken,
    peer: Peer,
    tail: Tail,
    unread: Vec<Record>,
    test: TestDb,
}

impl Service {
    /// The service on every database.
    pub async fn each() -> Vec<Self> {
        Self::each_with(HOUR).await
    }

    /// The service on every database, with this lifetime of refresh tokens.
    pub async fn each_with(refresh_ttl: Duration) -> Vec<Self> {
        let mut all = Vec::new();
        for test in testkit::databases(&[&db::MIGRATIONS, &events::MIGRATIONS, &auth::MIGRATIONS]).await {
            let tail = Local::new(vec![(topic::AUTH, test.db.clone())]).tail(&[topic::AUTH]).await.unwrap();
            let (keys, service_token) = (SigningKeys::generate(), ServiceToken::generate());
            let peer = peer(&test, &keys, &service_token, refresh_ttl);
            all.push(Self { name: test.name, keys, service_token, peer, tail, unread: Vec::new(), test });
        }
        all
    }

    /// The same service, started anew with this lifetime of refresh tokens.
    pub fn restart(&mut self, refresh_ttl: Duration) {
        self.peer = peer(&self.test, &self.keys, &self.service_token, refresh_ttl);
    }

    /// A client that is nobody.
    pub fn nobody(&self) -> Client {
        self.calling(Call::new())
    }

    /// A client with this access token.
    pub fn with(&self, token: &str) -> Client {
        self.calling(Call::new().with_authorization(&format!("Bearer {token}")))
    }

    /// A client that is a service.
    pub fn service(&self) -> Client {
        self.calling(Call::new().with_authorization(&self.service_token.header()))
    }

    /// A client whose calls carry this.
    pub fn calling(&self, call: Call) -> Client {
        AuthClient::with_interceptor(self.peer.clone(), call)
    }

    pub async fn register(&self, login: &str) -> Session {
        self.nobody().register(registration(login)).await.unwrap().into_inner()
    }

    pub async fn login(&self, login: &str, password: &str) -> Result<Session, Status> {
        let request = LoginRequest { login: login.to_owned(), password: password.to_owned() };
        self.nobody().login(request).await.map(tonic::Response::into_inner)
    }

    pub async fn refresh(&self, token: &str) -> Result<Session, Status> {
        let request = RefreshRequest { refresh_token: token.to_owned() };
        self.nobody().refresh(request).await.map(tonic::Response::into_inner)
    }

    /// A token of a real session, with other claims than it should have.
    pub fn forged(&self, session: &Session, change: impl FnOnce(&mut Claims)) -> String {
        let id = |bytes: &[u8]| Uuid::from_slice(bytes).unwrap();
        let user = id(&session.user.as_ref().unwrap().id);
        let mut claims = Claims::new(ISSUER, user, id(&session.session_id), now_s(), 600);
        assert_eq!(claims.aud, AUDIENCE);
        change(&mut claims);
        self.keys.sign(&claims)
    }

    /// The next events, exactly so many; there must not be more.
    pub async fn happened(&mut self, count: usize) -> Vec<Kind> {
        self.records(count).await.iter().map(|record| Kind::read(&record.payload).unwrap()).collect()
    }

    /// The records of the next events, exactly so many; there must not be more.
    pub async fn records(&mut self, count: usize) -> Vec<Record> {
        while self.unread.len() < count {
            let more = tokio::time::timeout(Duration::from_secs(10), self.tail.next()).await;
            self.unread.extend(more.expect("an event that should be there").unwrap().records);
        }
        assert_eq!(self.unread.len(), count, "{}: {:?}", self.name, self.unread);
        std::mem::take(&mut self.unread)
    }
}

fn peer(test: &TestDb, keys: &SigningKeys, service_token: &ServiceToken, refresh_ttl: Duration) -> Peer {
    let settings = Settings { issuer: ISSUER.to_owned(), access_ttl: HOUR, refresh_ttl };
    let app = App::new(test.db.clone(), keys.clone(), service_token.clone(), settings);
    local(server_layer("auth").layer(app.server()))
}

/// Seconds since the Unix epoch.
pub fn now_s() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

pub fn registration(login: &str) -> RegisterRequest {
    RegisterRequest { login: login.to_owned(), password: PASSWORD.to_owned(), name: None }
}

/// The code and the words of a refusal.
pub fn refusal<T>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.err().expect("a refusal");
    (status.code(), status.message().to_owned())
}

/// The code of a refusal.
pub fn code<T>(answer: Result<T, Status>) -> Code {
    refusal(answer).0
}

pub fn user_id(session: &Session) -> Vec<u8> {
    session.user.as_ref().unwrap().id.clone()
}
