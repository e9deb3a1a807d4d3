//! What can be changed.

use async_graphql::{Context, ID, Object};
use proto::{DialogId, MessageId, UserId, auth, counter, dialog};

use crate::error::{Code, Error};

use super::{
    CreateDialogInput, Dialog, LoginInput, MarkReadInput, MarkReadPayload, Message, RegisterInput, Scope,
    SendMessageInput, Session, SignIns, User,
};

/// The root of mutations.
pub struct Mutation;

/// What signing in costs: passwords are hashed slowly on purpose.
const PASSWORD_COST: usize = 1_000;

/// What can be changed. A write is done when it is answered. The fields of one operation run one after the other.
#[Object]
impl Mutation {
    /// Makes a person and signs in. Needs no sign-in. CONFLICT where the login is taken.
    #[graphql(complexity = "PASSWORD_COST + child_complexity")]
    async fn register(&self, ctx: &Context<'_>, input: RegisterInput) -> Result<Session, Error> {
        let RegisterInput { login, password, name } = input;
        SignIns::admit(ctx, Some(&login)).await?;
        let scope = Scope::of(ctx);
        let request = auth::RegisterRequest { login, password, name };
        scope.peers().auth(scope.call()).register(request).await?.into_inner().try_into()
    }

    /// Signs in. Needs no sign-in. UNAUTHENTICATED alike for an unknown login and a wrong password.
    #[graphql(complexity = "PASSWORD_COST + child_complexity")]
    async fn login(&self, ctx: &Context<'_>, input: LoginInput) -> Result<Session, Error> {
        let LoginInput { login, password } = input;
        SignIns::admit(ctx, Some(&login)).await?;
        let scope = Scope::of(ctx);
        let request = auth::LoginRequest { login, password };
        scope.peers().auth(scope.call()).login(request).await?.into_inner().try_into()
    }

    /// Exchanges a refresh token for a new pair of tokens. Needs no sign-in. UNAUTHENTICATED where it is unknown, used,
    /// expired or revoked.
    async fn refresh_session(&self, ctx: &Context<'_>, refresh_token: String) -> Result<Session, Error> {
        SignIns::admit(ctx, None).await?;
        let scope = Scope::of(ctx);
        let request = auth::RefreshRequest { refresh_token };
        scope.peers().auth(scope.call()).refresh(request).await?.into_inner().try_into()
    }

    /// Ends this session: its tokens are refused from now on, its sockets close. True where it is done.
    async fn logout(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Ends all sessions of the caller.", default_with = "Some(false)")]
        everywhere: Option<bool>,
    ) -> Result<bool, Error> {
        let scope = Scope::writing(ctx)?;
        let request = auth::LogoutRequest { everywhere: everywhere.unwrap_or_default() };
        scope.peers().auth(scope.call()).logout(request).await?;
        Ok(true)
    }

    /// Changes the caller's password. Ends every session of the caller and begins a new one. BAD_USER_INPUT where `old`
    /// is wrong.
    #[graphql(complexity = "2 * PASSWORD_COST + child_complexity")]
    async fn change_password(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "As it is.")] old: String,
        #[graphql(desc = "As it is to be: 8 to 256 characters.")] new: String,
    ) -> Result<Session, Error> {
        let scope = Scope::writing(ctx)?;
        SignIns::admit_password(ctx, scope.viewer()?.user).await?;
        let request = auth::ChangePasswordRequest { old, new };
        scope.peers().auth(scope.call()).change_password(request).await?.into_inner().try_into()
    }

    /// Changes what the caller is called.
    async fn update_me(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "1 to 64 characters.")] name: String,
    ) -> Result<User, Error> {
        let scope = Scope::writing(ctx)?;
        scope.peers().auth(scope.call()).rename(auth::RenameRequest { name }).await?.into_inner().try_into()
    }

    /// Makes a dialog, or finds the direct dialog of two people.
    async fn create_dialog(&self, ctx: &Context<'_>, input: CreateDialogInput) -> Result<Dialog, Error> {
        let scope = Scope::writing(ctx)?;
        let CreateDialogInput { participant_ids, title, client_key } = input;
        let participant_ids = people(&participant_ids)?;
        let request = dialog::CreateRequest { participant_ids, title, client_key };
        scope.peers().dialog(scope.call()).create(request).await?.into_inner().try_into()
    }

    /// Adds people to a group. What was said before does not count as unread for them.
    async fn add_participants(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "A group that the caller takes part in.")] dialog_id: ID,
        #[graphql(desc = "Whom to add; those who take part already stay as they are.")] user_ids: Vec<ID>,
    ) -> Result<Dialog, Error> {
        let scope = Scope::writing(ctx)?;
        let dialog_id = dialog_of(&dialog_id)?.bytes();
        let request = dialog::AddParticipantsRequest { dialog_id, user_ids: people(&user_ids)? };
        scope.peers().dialog(scope.call()).add_participants(request).await?.into_inner().try_into()
    }

    /// Leaves a group: it is gone from the caller's list and counts nothing. True where it is done.
    async fn leave_dialog(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "A group that the caller takes part in.")] dialog_id: ID,
    ) -> Result<bool, Error> {
        let scope = Scope::writing(ctx)?;
        let request = dialog::LeaveRequest { dialog_id: dialog_of(&dialog_id)?.bytes() };
        scope.peers().dialog(scope.call()).leave(request).await?;
        Ok(true)
    }

    /// Says something. The message is stored and visible when this is answered; its status is PENDING until the counters
    /// have confirmed it.
    async fn send_message(&self, ctx: &Context<'_>, input: SendMessageInput) -> Result<Message, Error> {
        let scope = Scope::writing(ctx)?;
        let SendMessageInput { dialog_id, text, client_key } = input;
        let request = dialog::SendRequest { dialog_id: dialog_of(&dialog_id)?.bytes(), text, client_key };
        scope.peers().dialog(scope.call()).send(request).await?.into_inner().try_into()
    }

    /// Deletes a message of the caller: its text is gone, and it no longer counts as unread. Repeating it changes nothing.
    async fn delete_message(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "A message of the caller's own.")] id: ID,
    ) -> Result<Message, Error> {
        let scope = Scope::writing(ctx)?;
        let request = dialog::DeleteRequest { message_id: message_of(&id)?.bytes() };
        scope.peers().dialog(scope.call()).delete(request).await?.into_inner().try_into()
    }

    /// Marks a dialog as read up to a message, on all of the caller's devices. Answers with the state after it.
    async fn mark_read(&self, ctx: &Context<'_>, input: MarkReadInput) -> Result<MarkReadPayload, Error> {
        let scope = Scope::writing(ctx)?;
        let dialog_id = dialog_of(&input.dialog_id)?.bytes();
        let message_id = input.up_to.map(|id| message_of(&id)).transpose()?.map(MessageId::bytes);
        let target = dialog::ReadTargetRequest { dialog_id: dialog_id.clone(), message_id };
        let seq = scope.peers().dialog(scope.call()).read_target(target).await?.into_inner().seq;
        let request = counter::MarkReadRequest { dialog_id, seq };
        let reply = scope.peers().counter(scope.call()).mark_read(request).await?.into_inner();
        let payload = MarkReadPayload::read(reply)?;
        scope.floor().raise(scope.viewer()?.user, payload.version);
        Ok(payload)
    }
}

/// What is no id looks like what is absent.
fn dialog_of(id: &ID) -> Result<DialogId, Error> {
    id.parse().map_err(|_| Error::new(Code::NotFound, "there is no such dialog"))
}

fn message_of(id: &ID) -> Result<MessageId, Error> {
    id.parse().map_err(|_| Error::new(Code::NotFound, "there is no such message"))
}

fn people(ids: &[ID]) -> Result<Vec<Vec<u8>>, Error> {
    let id =
        |id: &ID| id.parse::<UserId>().map(UserId::bytes).map_err(|_| Error::input("unknown participant"));
    ids.iter().map(id).collect()
}
