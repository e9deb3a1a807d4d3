//! The mutation root. Each resolver parses ids, calls the service that owns the data, and converts its
//! reply.

use std::time::Duration;

use async_graphql::{Context, ID, Object};
use prost::Message as _;
use proto::{DialogId, MessageId, SessionId, UserId, auth, counter, dialog};
use tonic::{Response, Status};

use crate::{
    client::revoked_sessions::RevokedSessions,
    error::{Code, Error},
};

use super::{
    CreateDialogInput, Dialog, LoginInput, MarkReadInput, MarkReadPayload, Message, RegisterInput, Scope,
    SendMessageInput, Session, SignInClient, SignInLimiter, User,
};

/// The mutation root.
pub struct Mutation;

/// The complexity of hashing one password. Argon2id is slow on purpose, so one operation can hash a few
/// passwords only.
const PASSWORD_COST: usize = 1_000;

/// Time within which the counter applies a leave. Later its event does it.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Changes to the data. A change is stored when its field is returned. The fields of one operation run
/// in order. All fields require authentication unless stated otherwise. A malformed id of a dialog, message
/// or session is NOT_FOUND, the same as an id that the caller may not see.
#[Object]
impl Mutation {
    /// Creates a user and signs in. Requires no authentication. A login that is taken is CONFLICT.
    #[graphql(complexity = "PASSWORD_COST + child_complexity")]
    async fn register(&self, ctx: &Context<'_>, input: RegisterInput) -> Result<Session, Error> {
        let RegisterInput { login, password, name, device_name } = input;
        let SignInClient { address: client_address, user_agent } = SignInLimiter::admit(ctx).await?;
        let scope = Scope::of(ctx);
        let request =
            auth::RegisterRequest { login, password, name, client_address, device_name, user_agent };
        signed_in(ctx, scope.peers().auth(&scope.sign_in_call()).register(request).await)
    }

    /// Signs in. Requires no authentication. An unknown login or a wrong password is UNAUTHENTICATED.
    #[graphql(complexity = "PASSWORD_COST + child_complexity")]
    async fn login(&self, ctx: &Context<'_>, input: LoginInput) -> Result<Session, Error> {
        let LoginInput { login, password, device_name } = input;
        let (attempt, client) = SignInLimiter::admit_login(ctx, &login).await?;
        let SignInClient { address: client_address, user_agent } = client;
        let scope = Scope::of(ctx);
        let known_address_only = attempt.is_for_known_addresses();
        let request = auth::LoginRequest {
            login,
            password,
            client_address,
            known_address_only,
            device_name,
            user_agent,
        };
        let answer = scope.peers().auth(&scope.sign_in_call()).login(request).await;
        signed_in(ctx, Ok(attempt.settle(answer).await?))
    }

    /// Exchanges a refresh token for a new pair of tokens. Requires no authentication. A refresh token
    /// that is unknown, used, expired or revoked is UNAUTHENTICATED.
    async fn refresh_session(&self, ctx: &Context<'_>, refresh_token: String) -> Result<Session, Error> {
        let SignInClient { address: client_address, user_agent } = SignInLimiter::admit(ctx).await?;
        let scope = Scope::of(ctx);
        let request = auth::RefreshRequest { refresh_token, client_address, user_agent };
        signed_in(ctx, scope.peers().auth(&scope.sign_in_call()).refresh(request).await)
    }

    /// Ends the current session: its tokens become invalid and its connections are closed. Returns true.
    async fn logout(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "True ends all sessions of the caller.", default_with = "Some(false)")]
        everywhere: Option<bool>,
    ) -> Result<bool, Error> {
        let scope = Scope::writing(ctx)?;
        let request = auth::LogoutRequest { everywhere: everywhere.unwrap_or_default() };
        let reply = scope.peers().auth(scope.call()).logout(request).await?.into_inner();
        ctx.data_unchecked::<RevokedSessions>().revoke_named(&reply.ended);
        Ok(true)
    }

    /// Ends one of the caller's sessions, also the current one: its tokens become invalid and its
    /// connections are closed. Returns true. NOT_FOUND for an id that is none of the caller's open sessions.
    async fn end_session(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The id of a session in `me { sessions }`.")] id: ID,
    ) -> Result<bool, Error> {
        let scope = Scope::writing(ctx)?;
        let session_id = parse_session_id(&id)?.bytes();
        let request = auth::EndSessionRequest { session_id };
        let reply = scope.peers().auth(scope.call()).end_session(request).await?.into_inner();
        ctx.data_unchecked::<RevokedSessions>().revoke_named(reply.ended.as_slice());
        Ok(true)
    }

    /// Changes the caller's password, ends all sessions of the caller, and returns a new session, which
    /// keeps the device name of the current one. A wrong `old` password is BAD_USER_INPUT.
    #[graphql(complexity = "2 * PASSWORD_COST + child_complexity")]
    async fn change_password(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The current password.")] old: String,
        #[graphql(desc = "The new password, 8 to 256 characters.")] new: String,
    ) -> Result<Session, Error> {
        let scope = Scope::writing(ctx)?;
        SignInLimiter::admit_password(ctx, scope.caller()?.user).await?;
        let request = auth::ChangePasswordRequest { old, new };
        signed_in(ctx, scope.peers().auth(scope.call()).change_password(request).await)
    }

    /// Changes the caller's display name.
    async fn update_me(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The new display name, 1 to 64 characters.")] name: String,
    ) -> Result<User, Error> {
        let scope = Scope::writing(ctx)?;
        scope.peers().auth(scope.call()).rename(auth::RenameRequest { name }).await?.into_inner().try_into()
    }

    /// Creates a dialog, or returns the existing direct dialog of two users. An unknown participant is
    /// BAD_USER_INPUT.
    async fn create_dialog(&self, ctx: &Context<'_>, input: CreateDialogInput) -> Result<Dialog, Error> {
        let scope = Scope::writing(ctx)?;
        let CreateDialogInput { participant_ids, title, client_key } = input;
        let participant_ids = parse_user_ids(&participant_ids)?;
        let request = dialog::CreateRequest { participant_ids, title, client_key };
        scope.peers().dialog(scope.call()).create(request).await?.into_inner().try_into()
    }

    /// Adds users to a group. They can read the whole history, but earlier messages do not count as
    /// unread. A direct dialog or an unknown user is BAD_USER_INPUT.
    async fn add_participants(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "A group that the caller takes part in.")] dialog_id: ID,
        #[graphql(desc = "The users to add. Users who already take part are ignored.")] user_ids: Vec<ID>,
    ) -> Result<Dialog, Error> {
        let scope = Scope::writing(ctx)?;
        let dialog_id = parse_dialog_id(&dialog_id)?.bytes();
        let request = dialog::AddParticipantsRequest { dialog_id, user_ids: parse_user_ids(&user_ids)? };
        scope.peers().dialog(scope.call()).add_participants(request).await?.into_inner().try_into()
    }

    /// Gives a group another title. Any participant may. A direct dialog is BAD_USER_INPUT.
    async fn rename_dialog(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "A group that the caller takes part in.")] dialog_id: ID,
        #[graphql(desc = "The new title, 1 to 64 characters.")] title: String,
    ) -> Result<Dialog, Error> {
        let scope = Scope::writing(ctx)?;
        let request = dialog::RenameRequest { dialog_id: parse_dialog_id(&dialog_id)?.bytes(), title };
        scope.peers().dialog(scope.call()).rename(request).await?.into_inner().try_into()
    }

    /// Removes the caller from a group. When this field is returned, the dialog has disappeared from the
    /// caller's list and counters; from the list only if the counter service does not answer within 2 s.
    /// Returns true. A direct dialog is BAD_USER_INPUT.
    async fn leave_dialog(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "A group that the caller takes part in.")] dialog_id: ID,
    ) -> Result<bool, Error> {
        let scope = Scope::writing(ctx)?;
        let dialog_id = parse_dialog_id(&dialog_id)?.bytes();
        let request = dialog::LeaveRequest { dialog_id: dialog_id.clone() };
        let dialog::LeaveReply { version } =
            scope.peers().dialog(scope.call()).leave(request).await?.into_inner();
        let user = scope.caller()?.user;
        let left = counter::LeaveRequest { dialog_id, user_id: user.bytes(), version };
        let call = scope.service().call_for(scope.call(), LEAVE_TIMEOUT);
        match scope.peers().counter(&call).leave(left).await {
            Ok(reply) => {
                let version = reply.into_inner().version.unwrap_or_default();
                scope.seen_versions().raise(user, version.into());
            }
            // The dialog is left, whatever the counter answers. Its event corrects the counts later.
            Err(status) => tracing::warn!(error = %status, "the counter could not be told of a leave"),
        }
        Ok(true)
    }

    /// Sends a message. It is stored and visible to all participants when this field is returned. Its
    /// status is PENDING until the counter service has counted it. The caller's own read position moves
    /// past it if it stands at the message before, or if `readUpTo` moves it there.
    async fn send_message(&self, ctx: &Context<'_>, input: SendMessageInput) -> Result<Message, Error> {
        let scope = Scope::writing(ctx)?;
        let SendMessageInput { dialog_id, text, client_key, read_up_to } = input;
        let dialog_id = parse_dialog_id(&dialog_id)?.bytes();
        let read_up_to = read_up_to.map(|id| parse_message_id(&id)).transpose()?.map(MessageId::bytes);
        let request = dialog::SendRequest { dialog_id, text, client_key, read_up_to };
        scope.peers().dialog(scope.call()).send(request).await?.into_inner().try_into()
    }

    /// Deletes a message by the caller: its text becomes empty and it no longer counts as unread.
    /// Deleting it again changes nothing.
    async fn delete_message(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "A message that the caller sent.")] id: ID,
    ) -> Result<Message, Error> {
        let scope = Scope::writing(ctx)?;
        let request = dialog::DeleteRequest { message_id: parse_message_id(&id)?.bytes() };
        scope.peers().dialog(scope.call()).delete(request).await?.into_inner().try_into()
    }

    /// Marks a dialog as read up to a message, on all of the caller's devices. Returns the new counters.
    async fn mark_read(&self, ctx: &Context<'_>, input: MarkReadInput) -> Result<MarkReadPayload, Error> {
        let scope = Scope::writing(ctx)?;
        let dialog_id = parse_dialog_id(&input.dialog_id)?.bytes();
        let message_id = input.up_to.map(|id| parse_message_id(&id)).transpose()?.map(MessageId::bytes);
        let target = dialog::ReadTargetRequest { dialog_id: dialog_id.clone(), message_id };
        let seq = scope.peers().dialog(scope.call()).read_target(target).await?.into_inner().seq;
        let request = counter::MarkReadRequest { dialog_id, seq };
        let reply = scope.peers().counter(scope.call()).mark_read(request).await?.into_inner();
        let payload = MarkReadPayload::try_from(reply)?;
        scope.seen_versions().raise(scope.caller()?.user, payload.version);
        Ok(payload)
    }
}

/// Converts the answer to a call that signs in. Revokes the sessions that the call has ended before the
/// client has the answer; also a refused refresh may have ended one.
fn signed_in(ctx: &Context<'_>, reply: Result<Response<auth::Session>, Status>) -> Result<Session, Error> {
    let revoked: &RevokedSessions = ctx.data_unchecked();
    match reply {
        Ok(reply) => {
            let session = reply.into_inner();
            revoked.revoke_named(&session.ended);
            session.try_into()
        }
        Err(status) => {
            if let Ok(refused) = auth::RefreshRefused::decode(status.details()) {
                revoked.revoke_named(&refused.ended);
            }
            Err(status.into())
        }
    }
}

/// A malformed id is NOT_FOUND, the same as an id that the caller may not see.
fn parse_dialog_id(id: &ID) -> Result<DialogId, Error> {
    id.parse().map_err(|_| Error::new(Code::NotFound, "there is no such dialog"))
}

fn parse_message_id(id: &ID) -> Result<MessageId, Error> {
    id.parse().map_err(|_| Error::new(Code::NotFound, "there is no such message"))
}

fn parse_session_id(id: &ID) -> Result<SessionId, Error> {
    id.parse().map_err(|_| Error::new(Code::NotFound, "there is no such session"))
}

fn parse_user_ids(ids: &[ID]) -> Result<Vec<Vec<u8>>, Error> {
    let parse =
        |id: &ID| id.parse::<UserId>().map(UserId::bytes).map_err(|_| Error::input("unknown participant"));
    ids.iter().map(parse).collect()
}
