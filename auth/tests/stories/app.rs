//! Fixture: the auth service over an empty database, clients with various credentials, and the events it
//! has written.

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

/// Running auth service.
pub struct Service {
    /// Name of the database engine, for assertion messages.
    pub name: &'static str,
    pub keys: SigningKeys,
    pub service_token: ServiceToken,
    peer: Peer,
    tail: Tail,
    pending: Vec<Record>,
    test: TestDb,
}

impl Service {
    /// Starts the service on each database engine.
    pub async fn on_each_database() -> Vec<Self> {
        Self::on_each_database_with(HOUR).await
    }

    /// Starts the service on each database engine, with this lifetime of refresh tokens.
    pub async fn on_each_database_with(refresh_ttl: Duration) -> Vec<Self> {
        let mut all = Vec::new();
        for test in testkit::databases(&[&db::MIGRATIONS, &events::MIGRATIONS, &auth::MIGRATIONS]).await {
            let tail = Local::new(vec![(topic::AUTH, test.db.clone())]).tail(&[topic::AUTH]).await.unwrap();
            let keys = SigningKeys::generate();
            let service_token = ServiceToken::generate();
            let peer = peer(&test, &keys, &service_token, refresh_ttl, HOUR);
            all.push(Self { name: test.name, keys, service_token, peer, tail, pending: Vec::new(), test });
        }
        all
    }

    /// Restarts the service on the same database, with this lifetime of refresh tokens.
    pub fn restart(&mut self, refresh_ttl: Duration) {
        self.restart_with(refresh_ttl, HOUR);
    }

    /// Restarts the service on the same database, with these lifetimes of refresh and access tokens.
    pub fn restart_with(&mut self, refresh_ttl: Duration, access_ttl: Duration) {
        self.peer = peer(&self.test, &self.keys, &self.service_token, refresh_ttl, access_ttl);
    }

    /// Returns a client without credentials.
    pub fn anonymous(&self) -> Client {
        self.with_call(Call::new())
    }

    /// Returns a client with this access token.
    pub fn with_token(&self, token: &str) -> Client {
        self.with_call(Call::new().with_authorization(&format!("Bearer {token}")))
    }

    /// Returns a client with the service token.
    pub fn as_service(&self) -> Client {
        self.with_call(Call::new().with_authorization(&self.service_token.header()))
    }

    /// Returns a client that sends this call context.
    pub fn with_call(&self, call: Call) -> Client {
        AuthClient::with_interceptor(self.peer.clone(), call)
    }

    pub async fn register(&self, login: &str) -> Session {
        self.anonymous().register(registration(login)).await.unwrap().into_inner()
    }

    pub async fn login(&self, login: &str, password: &str) -> Result<Session, Status> {
        let request =
            LoginRequest { login: login.to_owned(), password: password.to_owned(), ..Default::default() };
        self.anonymous().login(request).await.map(tonic::Response::into_inner)
    }

    pub async fn refresh(&self, token: &str) -> Result<Session, Status> {
        let request = RefreshRequest { refresh_token: token.to_owned(), ..Default::default() };
        self.anonymous().refresh(request).await.map(tonic::Response::into_inner)
    }

    /// Signs an access token for a session, with altered claims.
    pub fn forged(&self, session: &Session, change: impl FnOnce(&mut Claims)) -> String {
        let id = |bytes: &[u8]| Uuid::from_slice(bytes).unwrap();
        let user = id(&session.user.as_ref().unwrap().id);
        let mut claims = Claims::new(ISSUER, user, id(&session.session_id), now_s(), 600);
        assert_eq!(claims.aud, AUDIENCE);
        change(&mut claims);
        self.keys.sign(&claims)
    }

    /// Returns the next `count` events. Panics if there are more.
    pub async fn events(&mut self, count: usize) -> Vec<Kind> {
        self.records(count).await.iter().map(|record| Kind::decode(&record.payload).unwrap()).collect()
    }

    /// Returns the records of the next `count` events. Panics if there are more.
    pub async fn records(&mut self, count: usize) -> Vec<Record> {
        while self.pending.len() < count {
            let more = tokio::time::timeout(Duration::from_secs(10), self.tail.next()).await;
            self.pending.extend(more.expect("the expected events arrive within 10 s").unwrap().records);
        }
        assert_eq!(self.pending.len(), count, "{}: {:?}", self.name, self.pending);
        std::mem::take(&mut self.pending)
    }
}

fn peer(
    test: &TestDb,
    keys: &SigningKeys,
    service_token: &ServiceToken,
    refresh_ttl: Duration,
    access_ttl: Duration,
) -> Peer {
    let settings = Settings { issuer: ISSUER.to_owned(), access_ttl, refresh_ttl };
    let app = App::new(test.db.clone(), keys.clone(), service_token.clone(), settings);
    local(server_layer("auth").layer(app.server()))
}

/// Returns the current time in seconds since the Unix epoch.
pub fn now_s() -> i64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since_epoch.as_secs()).unwrap()
}

pub fn registration(login: &str) -> RegisterRequest {
    RegisterRequest { login: login.to_owned(), password: PASSWORD.to_owned(), ..Default::default() }
}

/// Returns the code and the message of a failed call. Panics if it succeeded.
pub fn error_of<T>(result: Result<T, Status>) -> (Code, String) {
    let status = result.err().expect("the call fails");
    (status.code(), status.message().to_owned())
}

/// Returns the code of a failed call. Panics if it succeeded.
pub fn code<T>(result: Result<T, Status>) -> Code {
    error_of(result).0
}

pub fn user_id(session: &Session) -> Vec<u8> {
    session.user.as_ref().unwrap().id.clone()
}
