//! gRPC service `tidings.auth.Auth`: authenticates callers, parses requests, calls the operation and
//! encodes the response. Ids, random bytes and the time of a call are generated here, so that operations
//! are deterministic.

use std::time::{SystemTime, UNIX_EPOCH};

use events::Headers;
use proto::{
    InvalidId, SessionId, UserId,
    auth::{
        ChangePasswordRequest, EndSessionReply, EndSessionRequest, EndedSession, KeysReply, KeysRequest,
        LoginRequest, LogoutReply, LogoutRequest, OpenSession, RefreshRequest, RegisterRequest,
        RenameRequest, RevokedPosition, RevokedSinceReply, RevokedSinceRequest, SearchReply, SearchRequest,
        Session, SessionsReply, SessionsRequest, User, UsersReply, UsersRequest, auth_server::Auth,
    },
};
use telemetry::Call;
use tonic::{Request, Response, Status};

use crate::{
    App, Error,
    change_password::{self, Change},
    client::{Client, Network},
    device::{Device, UserAgent},
    end_session, known_address,
    login::{self, Attempt},
    open_session,
    password::{EnteredPassword, Password},
    refresh_token::{self, Refresh, Salt, Token},
    register::{self, Registration},
    rename,
    revoked::{self, Position},
    session::{self, Caller, Ended, NewSession},
    user::{self, Login, Name, Page, Search},
};

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Auth for App {
    async fn register(&self, request: Request<RegisterRequest>) -> Reply<Session> {
        let headers = headers(&request);
        let client = self.client(&request, &request.get_ref().client_address);
        let user_agent = self.user_agent(&request, &request.get_ref().user_agent);
        let RegisterRequest { login, password, name, device_name, client_address: _, user_agent: _ } =
            request.into_inner();
        let login = Login::parse(&login)?;
        let name = name.map_or_else(|| Ok(Name::from_login(&login)), |name| Name::parse(&name))?;
        let password = Password::parse(&password)?;
        let new = new_session(Device::parse(device_name.as_deref(), user_agent)?);
        let registration = Registration { id: UserId::now(), login, name, password, client };
        Ok(Response::new(register::register(self, registration, new, headers).await?.into()))
    }

    async fn login(&self, request: Request<LoginRequest>) -> Reply<Session> {
        let headers = headers(&request);
        let client = self.client(&request, &request.get_ref().client_address);
        let user_agent = self.user_agent(&request, &request.get_ref().user_agent);
        let LoginRequest {
            login,
            password,
            client_address: _,
            known_address_only,
            device_name,
            user_agent: _,
        } = request.into_inner();
        let new = new_session(Device::parse(device_name.as_deref(), user_agent)?);
        // A malformed login or password is not INVALID_ARGUMENT: it gets the response of wrong
        // credentials.
        let login = Login::parse(&login).ok();
        let password = EnteredPassword::parse(password);
        let attempt = Attempt { login, password, client, known_address_only };
        Ok(Response::new(login::login(self, attempt, new, headers).await?.into()))
    }

    async fn refresh(&self, request: Request<RefreshRequest>) -> Reply<Session> {
        let headers = headers(&request);
        let client = self.client(&request, &request.get_ref().client_address);
        let user_agent = self.user_agent(&request, &request.get_ref().user_agent);
        let token = Token::parse(&request.into_inner().refresh_token)?;
        let refresh = Refresh { token, salt: Salt::random(), user_agent, now_us: now_us() };
        let session = refresh_token::refresh(self, refresh, headers).await?;
        known_address::refreshed(self, session.user.id, client.network).await;
        Ok(Response::new(session.into()))
    }

    async fn logout(&self, request: Request<LogoutRequest>) -> Reply<LogoutReply> {
        let caller = self.caller(&request).await?;
        let headers = headers(&request);
        let ended = session::logout(self, caller, request.into_inner().everywhere, headers).await?;
        Ok(Response::new(LogoutReply { ended: ended.into_iter().map(Into::into).collect() }))
    }

    async fn change_password(&self, request: Request<ChangePasswordRequest>) -> Reply<Session> {
        let caller = self.caller(&request).await?;
        let headers = headers(&request);
        let deadline = Call::of(&request).deadline;
        let ChangePasswordRequest { old, new } = request.into_inner();
        let change = Change { old: EnteredPassword::parse(old), new: Password::parse(&new)?, deadline };
        let new = new_session(Device::default());
        Ok(Response::new(change_password::change(self, caller, change, new, headers).await?.into()))
    }

    async fn sessions(&self, request: Request<SessionsRequest>) -> Reply<SessionsReply> {
        let caller = self.caller(&request).await?;
        let sessions = open_session::list(self, caller, now_us()).await?;
        let sessions = sessions.into_iter().map(|session| listed(session, caller)).collect();
        Ok(Response::new(SessionsReply { sessions }))
    }

    async fn end_session(&self, request: Request<EndSessionRequest>) -> Reply<EndSessionReply> {
        let caller = self.caller(&request).await?;
        let headers = headers(&request);
        let session = SessionId::parse(&request.into_inner().session_id);
        let session = session.map_err(|_| Error::UnknownSession)?;
        let ended = end_session::end(self, caller, session, headers).await?;
        Ok(Response::new(EndSessionReply { ended: Some(ended.into()) }))
    }

    async fn rename(&self, request: Request<RenameRequest>) -> Reply<User> {
        let caller = self.caller(&request).await?;
        let headers = headers(&request);
        let name = Name::parse(&request.into_inner().name)?;
        Ok(Response::new(rename::rename(self, caller, name, headers).await?.into()))
    }

    async fn users(&self, request: Request<UsersRequest>) -> Reply<UsersReply> {
        self.caller(&request).await?;
        let ids = UserId::parse_all(&request.into_inner().ids).map_err(Error::from)?;
        let users = user::list(self, &ids).await?.into_iter().map(User::from).collect();
        Ok(Response::new(UsersReply { users }))
    }

    async fn search(&self, request: Request<SearchRequest>) -> Reply<SearchReply> {
        self.caller(&request).await?;
        let SearchRequest { prefix, first, after_login } = request.into_inner();
        let search = Search::parse(&prefix, first, after_login)?;
        let Page { users, has_next } = user::search(self, &search).await?;
        Ok(Response::new(SearchReply { users: users.into_iter().map(User::from).collect(), has_next }))
    }

    async fn keys(&self, _: Request<KeysRequest>) -> Reply<KeysReply> {
        Ok(Response::new(KeysReply { jwks: self.keys.jwks() }))
    }

    async fn revoked_since(&self, request: Request<RevokedSinceRequest>) -> Reply<RevokedSinceReply> {
        self.guard.service(request.metadata())?;
        let RevokedSinceRequest { since_us, after } = request.into_inner();
        let after = after.map(position).transpose().map_err(Error::from)?;
        let revoked::Page { sessions, more, next_since_us } = revoked::since(self, since_us, after).await?;
        Ok(Response::new(RevokedSinceReply {
            sessions: sessions.into_iter().map(Into::into).collect(),
            more: more.map(|Position { ended_at_us, session }| RevokedPosition {
                ended_at_us,
                session_id: session.bytes(),
            }),
            next_since_us,
        }))
    }
}

impl App {
    async fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = self.guard.caller(request.metadata()).await?;
        Ok(Caller { user: UserId::new(caller.user), session: SessionId::new(caller.session) })
    }

    /// Returns the client of a sign-in. Its address counts only if the request carries the service token:
    /// the call is open, and a caller could otherwise choose any address.
    fn client<T>(&self, request: &Request<T>, address: &[u8]) -> Client {
        let network = if self.is_service(request) { Network::parse(address) } else { None };
        Client { network, deadline: Call::of(request).deadline }
    }

    /// Returns the user agent of a sign-in's client. It counts only with the service token too.
    fn user_agent<T>(&self, request: &Request<T>, text: &str) -> Option<UserAgent> {
        if self.is_service(request) { UserAgent::parse(text) } else { None }
    }

    /// Returns true if the request carries the service token.
    fn is_service<T>(&self, request: &Request<T>) -> bool {
        self.guard.service(request.metadata()).is_ok()
    }
}

impl From<session::Session> for Session {
    fn from(session: session::Session) -> Self {
        Self {
            user: Some(session.user.into()),
            session_id: session.id.bytes(),
            access_token: session.access_token,
            refresh_token: session.refresh_token,
            expires_at_us: session.expires_at_us,
            ended: session.ended.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Ended> for EndedSession {
    fn from(ended: Ended) -> Self {
        Self { session_id: ended.session.bytes(), expires_at_us: ended.expires_at_us }
    }
}

fn listed(session: open_session::OpenSession, caller: Caller) -> OpenSession {
    OpenSession {
        session_id: session.id.bytes(),
        device_name: session.device_name,
        user_agent: session.user_agent,
        created_at_us: session.created_at_us,
        last_used_at_us: session.last_used_at_us,
        current: session.id == caller.session,
    }
}

fn position(after: RevokedPosition) -> Result<Position, InvalidId> {
    Ok(Position { ended_at_us: after.ended_at_us, session: SessionId::parse(&after.session_id)? })
}

impl From<user::User> for User {
    fn from(user: user::User) -> Self {
        Self { id: user.id.bytes(), login: user.login, name: user.name, created_at_us: user.created_at_us }
    }
}

fn headers<T>(request: &Request<T>) -> Headers {
    Headers::from(&Call::of(request))
}

fn new_session(device: Device) -> NewSession {
    NewSession { id: SessionId::now(), token: Token::random(), device, now_us: now_us() }
}

fn now_us() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX)
}
