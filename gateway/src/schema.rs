//! The public GraphQL schema: its types, and resolvers that call the services through the operation's
//! [`Scope`]. The file `schema.graphql` in the root of the repository is generated from it; a test keeps
//! the file up to date.

#[cfg(test)]
mod contract_tests;
pub mod cursor;
pub mod data_loader;
mod dialog;
mod entity;
#[cfg(test)]
mod federation_tests;
mod input;
pub mod loaders;
mod message;
mod mutation;
mod node;
#[cfg(test)]
mod node_tests;
mod nulled_fields;
mod page;
pub mod plan;
mod query;
#[cfg(test)]
mod resolver_tests;
#[cfg(test)]
mod session_tests;
mod subscription;
mod time;
mod unread;
mod user;

use std::{net::IpAddr, sync::Arc};

use async_graphql::{Context, SDLExportOptions, SchemaBuilder};
use telemetry::Call;

use crate::{
    client::{
        caller::Caller,
        rate_limits::{LoginAttempt, RateLimiter},
        user_agent::UserAgent,
    },
    error::Error,
    hub::Service,
    peers::Peers,
    seen_versions::SeenVersions,
};

use data_loader::Dispatcher;
use loaders::{Loaders, Source};

pub use dialog::Dialog;
pub use entity::Root;
pub use input::{CreateDialogInput, LoginInput, MarkReadInput, RegisterInput, SendMessageInput};
pub use message::Message;
pub use mutation::Mutation;
pub use node::Node;
pub use page::{DialogConnection, MessageConnection, UserConnection};
pub use query::Query;
#[cfg(test)]
pub use resolver_tests::{FULL_DIALOG_PAGE, all_services};
pub use subscription::Subscription;
pub use time::DateTime;
pub use unread::{DialogUnread, MarkReadPayload, ReadState, Unread};
pub use user::{OpenSession, Session, User};

/// The executable schema.
pub type Schema = async_graphql::Schema<Root, Mutation, Subscription>;

/// Returns a builder of the schema. The caller sets limits and extensions.
pub fn build() -> SchemaBuilder<Root, Mutation, Subscription> {
    Schema::build(Root, Mutation, Subscription)
}

/// Returns the schema in the GraphQL schema definition language.
pub fn sdl() -> String {
    let options = SDLExportOptions::new().use_space_ident().prefer_single_line_descriptions();
    build().finish().sdl_with_options(options)
}

/// Rate limit of the resolvers that check a password or a refresh token. It is checked in the resolvers
/// and not before execution, because one operation may contain several of them.
pub struct SignInLimiter {
    /// The gateway's rate limiter.
    pub rate_limiter: RateLimiter,
    /// The address of the client.
    pub address: IpAddr,
    /// The user agent of the client.
    pub user_agent: UserAgent,
}

/// The client of a sign-in, as the gateway describes it to auth.
pub struct SignInClient {
    /// The 4 or 16 bytes of the address.
    pub address: Vec<u8>,
    /// The user agent; the empty text if the client states none.
    pub user_agent: String,
}

impl SignInLimiter {
    /// Counts one attempt to register or to refresh a session from the client's address. Returns the
    /// client for auth.
    ///
    /// # Errors
    /// RATE_LIMITED.
    pub async fn admit(ctx: &Context<'_>) -> Result<SignInClient, Error> {
        let limiter: &Self = ctx.data_unchecked();
        limiter.rate_limiter.sign_in(limiter.address).await?;
        Ok(limiter.client())
    }

    /// Counts one attempt to log in. Returns it with the client for auth.
    ///
    /// # Errors
    /// RATE_LIMITED.
    pub async fn admit_login(ctx: &Context<'_>, login: &str) -> Result<(LoginAttempt, SignInClient), Error> {
        let limiter: &Self = ctx.data_unchecked();
        let attempt = limiter.rate_limiter.login(limiter.address, login).await?;
        Ok((attempt, limiter.client()))
    }

    /// Counts one attempt of a caller to confirm the current password.
    ///
    /// # Errors
    /// RATE_LIMITED.
    pub async fn admit_password(ctx: &Context<'_>, user: proto::UserId) -> Result<(), Error> {
        let limiter: &Self = ctx.data_unchecked();
        limiter.rate_limiter.password(limiter.address, user).await
    }

    fn client(&self) -> SignInClient {
        SignInClient { address: octets(self.address), user_agent: self.user_agent.text() }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The context that the resolvers of one operation share: the caller, the services and the loaders.
pub struct Scope {
    caller: Option<Caller>,
    source: Arc<Source>,
    entity_indexes: entity::EntityIndexes,
    nulled_fields: nulled_fields::NulledFields,
    /// The loaders of the operation.
    pub loaders: Loaders,
}

impl Scope {
    /// Creates the scope of one operation. Calls to the services carry the caller's newest access token.
    pub fn new(
        caller: Option<Caller>,
        call: Call,
        service: Service,
        seen_versions: SeenVersions,
        dispatcher: &Dispatcher,
    ) -> Self {
        let call = match &caller {
            Some(caller) => call.with_secret(caller.authorization.newest()),
            None => call,
        };
        let user = caller.as_ref().map(|caller| caller.user);
        let source = Arc::new(Source { service, call, caller: user, seen_versions });
        Self {
            caller,
            loaders: Loaders::new(dispatcher, &source),
            entity_indexes: entity::EntityIndexes::default(),
            nulled_fields: nulled_fields::NulledFields::default(),
            source,
        }
    }

    /// Returns the scope of the operation that is being executed.
    pub fn of<'a>(ctx: &Context<'a>) -> &'a Self {
        ctx.data_unchecked()
    }

    /// Returns the scope for a write. Clears the loaders, so that fields of the mutation's result are
    /// read after the write.
    ///
    /// # Errors
    /// UNAUTHENTICATED if the operation is not authenticated.
    pub fn writing<'a>(ctx: &Context<'a>) -> Result<&'a Self, Error> {
        let scope = Self::of(ctx);
        scope.caller()?;
        scope.loaders.clear();
        Ok(scope)
    }

    /// Returns the caller.
    ///
    /// # Errors
    /// UNAUTHENTICATED if the operation is not authenticated.
    pub fn caller(&self) -> Result<&Caller, Error> {
        self.caller.as_ref().ok_or_else(Error::sign_in)
    }

    /// Returns the services.
    pub fn peers(&self) -> &Peers {
        &self.source.service.peers
    }

    /// Returns the services, to be called with the service token.
    pub fn service(&self) -> &Service {
        &self.source.service
    }

    /// Returns the call context: deadline, request id, trace and the caller's access token.
    pub fn call(&self) -> &Call {
        &self.source.call
    }

    /// Returns the context of a call that has no caller: a sign-in. It carries the service token, which
    /// vouches for the client's address.
    pub fn sign_in_call(&self) -> Call {
        self.service().authorize(self.call())
    }

    /// Returns the newest versions that this gateway has sent to each user.
    pub fn seen_versions(&self) -> &SeenVersions {
        &self.source.seen_versions
    }
}
