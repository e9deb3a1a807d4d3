//! The public schema: types, and resolvers that turn a field into calls of services. `schema.graphql` at the root of the
//! repository is what it says; a test keeps it so. What all resolvers of an operation share is its [`Scope`].

#[cfg(test)]
mod calls;
#[cfg(test)]
pub use calls::EVERYTHING;
#[cfg(test)]
mod contract;
mod dialog;
mod entity;
#[cfg(test)]
mod federation;
mod input;
mod lost;
mod message;
mod mutation;
mod page;
mod query;
mod subscription;
mod time;
mod unread;
mod user;

use std::net::IpAddr;

use async_graphql::{Context, SDLExportOptions, SchemaBuilder};
use telemetry::Call;

use crate::{
    error::Error,
    floor::Floor,
    loaders::{Loaders, Source},
    peers::Peers,
    rates::Rates,
    turn::Turn,
    viewer::Viewer,
};

pub use dialog::Dialog;
pub use entity::Root;
pub use input::{CreateDialogInput, LoginInput, MarkReadInput, RegisterInput, SendMessageInput};
pub use message::{Message, MessageStatus};
pub use mutation::Mutation;
pub use page::{
    DialogConnection, DialogEdge, MessageConnection, MessageEdge, PageInfo, UserConnection, UserEdge,
};
pub use query::Query;
pub use subscription::{MessageEvent, MessageEventKind, Subscription, UnreadEvent, UnreadEventKind};
pub use time::DateTime;
pub use unread::{DialogUnread, MarkReadPayload, ReadState, Unread};
pub use user::{Session, User};

/// The schema, ready to execute.
pub type Schema = async_graphql::Schema<Root, Mutation, Subscription>;

/// The schema, not finished yet: modes and extensions are the pipeline's.
pub fn build() -> SchemaBuilder<Root, Mutation, Subscription> {
    Schema::build(Root, Mutation, Subscription)
}

/// Its text, in the schema definition language.
pub fn sdl() -> String {
    let options = SDLExportOptions::new().use_space_ident().prefer_single_line_descriptions();
    build().finish().sdl_with_options(options)
}

/// What the resolvers that sign somebody in ask first, each time that they are called.
pub struct SignIns {
    /// How often they may.
    pub rates: Rates,
    /// From where.
    pub address: IpAddr,
}

impl SignIns {
    /// One more attempt, as this login where it is told.
    ///
    /// # Errors
    /// RATE_LIMITED.
    pub async fn admit(ctx: &Context<'_>, login: Option<&str>) -> Result<(), Error> {
        let Self { rates, address } = ctx.data_unchecked();
        rates.sign_in(*address, login).await
    }

    /// One more attempt of a person who is signed in to show the password.
    ///
    /// # Errors
    /// RATE_LIMITED.
    pub async fn admit_password(ctx: &Context<'_>, user: proto::UserId) -> Result<(), Error> {
        let Self { rates, address } = ctx.data_unchecked();
        rates.password(*address, user).await
    }
}

/// What the resolvers of one operation share.
pub struct Scope {
    viewer: Option<Viewer>,
    source: Source,
    places: entity::Places,
    lost: lost::Lost,
    /// What they load together.
    pub loaders: Loaders,
}

impl Scope {
    /// For one operation of this viewer, whose loaders follow these turns.
    pub fn new(viewer: Option<Viewer>, call: Call, peers: Peers, floor: Floor, turn: &Turn) -> Self {
        let call = match &viewer {
            Some(viewer) => call.with_authorization(viewer.authorization.newest().expose()),
            None => call,
        };
        let source = Source { peers, call, viewer: viewer.as_ref().map(|viewer| viewer.user), floor };
        Self {
            viewer,
            loaders: Loaders::new(turn, &source),
            places: entity::Places::default(),
            lost: lost::Lost::default(),
            source,
        }
    }

    /// That of the operation that a resolver belongs to.
    pub fn of<'a>(ctx: &Context<'a>) -> &'a Self {
        ctx.data_unchecked()
    }

    /// That of a write by somebody who is signed in: nothing that was read before it counts any more.
    ///
    /// # Errors
    /// UNAUTHENTICATED where nobody is signed in.
    pub fn writing<'a>(ctx: &Context<'a>) -> Result<&'a Self, Error> {
        let scope = Self::of(ctx);
        scope.viewer()?;
        scope.loaders.forget();
        Ok(scope)
    }

    /// Who is signed in.
    ///
    /// # Errors
    /// UNAUTHENTICATED where nobody is.
    pub fn viewer(&self) -> Result<&Viewer, Error> {
        self.viewer.as_ref().ok_or_else(Error::sign_in)
    }

    /// The services.
    pub fn peers(&self) -> &Peers {
        &self.source.peers
    }

    /// What travels with calls.
    pub fn call(&self) -> &Call {
        &self.source.call
    }

    /// What this gateway has shown to whom.
    pub fn floor(&self) -> &Floor {
        &self.source.floor
    }
}
