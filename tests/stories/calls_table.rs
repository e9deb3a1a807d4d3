//! Who may call what among the services: a row for every call of the contracts, a column for every kind of caller.
//!
//! A service believes an access token until it ends; which sessions are over the gateway knows, and auth where a call is about
//! the session itself. Hence the column of those who have logged out.

use prost::Message;
use proto::{auth, counter, dialog};

use crate::person::PASSWORD;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Made the dialog and wrote the message.
    Owner,
    /// Takes part in the dialog.
    Participant,
    /// Took part in it until a while ago.
    Left,
    /// Has nothing to do with it.
    Stranger,
    /// A participant whose session is over.
    LoggedOut,
    /// Shows no token.
    Anonymous,
    /// Shows one that does not hold.
    BadToken,
    /// A service.
    Service,
    /// Whoever shows another service token.
    WrongService,
}

/// The columns of the table, in its order.
pub const EVERYONE: [Who; 9] = [
    Who::Owner,
    Who::Participant,
    Who::Left,
    Who::Stranger,
    Who::LoggedOut,
    Who::Anonymous,
    Who::BadToken,
    Who::Service,
    Who::WrongService,
];

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done, or told.
    Done,
    /// The reply is that of things that are absent.
    Nothing,
    /// The error is that of things that are absent.
    NotFound,
    /// UNAUTHENTICATED.
    SignIn,
    /// PERMISSION_DENIED: people do not call this.
    ForServices,
}

use Outcome::{Done, ForServices, NotFound, Nothing, SignIn};

/// What a call speaks of.
pub struct Scene {
    pub dialog: Vec<u8>,
    pub message: dialog::Message,
    pub person: Vec<u8>,
    /// Of a session that nothing else is done with.
    pub refresh_token: String,
    /// Never given twice.
    pub number: usize,
}

/// A call, and what becomes of it for everyone.
pub struct Row {
    /// `package.Service/Call`.
    pub call: &'static str,
    pub request: fn(&Scene) -> Vec<u8>,
    pub expected: [Outcome; 9],
    /// Whether it ends the caller's sessions: it is tried by somebody of its own.
    pub ends_sessions: bool,
}

const OPEN: [Outcome; 9] = [Done; 9];
const PEOPLE: [Outcome; 9] = [Done, Done, Done, Done, Done, SignIn, SignIn, SignIn, SignIn];
const PEOPLE_SIGNED_IN: [Outcome; 9] = [Done, Done, Done, Done, SignIn, SignIn, SignIn, SignIn, SignIn];
const TOLD_TO_MEMBERS: [Outcome; 9] = [Done, Done, Nothing, Nothing, Done, SignIn, SignIn, SignIn, SignIn];
const DONE_BY_MEMBERS: [Outcome; 9] = [Done, Done, NotFound, NotFound, Done, SignIn, SignIn, SignIn, SignIn];
const DONE_BY_OWNER: [Outcome; 9] =
    [Done, NotFound, NotFound, NotFound, NotFound, SignIn, SignIn, SignIn, SignIn];
const SERVICES: [Outcome; 9] =
    [ForServices, ForServices, ForServices, ForServices, ForServices, SignIn, ForServices, Done, SignIn];

const fn row(call: &'static str, expected: [Outcome; 9], request: fn(&Scene) -> Vec<u8>) -> Row {
    Row { call, request, expected, ends_sessions: false }
}

const fn ending(row: Row) -> Row {
    Row { ends_sessions: true, ..row }
}

/// The table.
pub const TABLE: [Row; 29] = [
    row("tidings.auth.Auth/Register", OPEN, |scene| {
        let login = format!("made{}", scene.number);
        auth::RegisterRequest { login, password: PASSWORD.to_owned(), name: None }.encode_to_vec()
    }),
    row("tidings.auth.Auth/Login", OPEN, |_| {
        auth::LoginRequest { login: "ann".to_owned(), password: PASSWORD.to_owned() }.encode_to_vec()
    }),
    row("tidings.auth.Auth/Refresh", OPEN, |scene| {
        auth::RefreshRequest { refresh_token: scene.refresh_token.clone() }.encode_to_vec()
    }),
    ending(row("tidings.auth.Auth/Logout", PEOPLE_SIGNED_IN, |_| {
        auth::LogoutRequest::default().encode_to_vec()
    })),
    ending(row("tidings.auth.Auth/ChangePassword", PEOPLE_SIGNED_IN, |_| {
        auth::ChangePasswordRequest { old: PASSWORD.to_owned(), new: PASSWORD.to_owned() }.encode_to_vec()
    })),
    row("tidings.auth.Auth/Rename", PEOPLE_SIGNED_IN, |_| {
        auth::RenameRequest { name: "somebody".to_owned() }.encode_to_vec()
    }),
    row("tidings.auth.Auth/Users", PEOPLE, |scene| {
        auth::UsersRequest { ids: vec![scene.person.clone()] }.encode_to_vec()
    }),
    row("tidings.auth.Auth/Search", PEOPLE, |_| {
        auth::SearchRequest { prefix: "ann".to_owned(), first: 1, after_login: None }.encode_to_vec()
    }),
    row("tidings.auth.Auth/Keys", OPEN, |_| auth::KeysRequest::default().encode_to_vec()),
    row("tidings.auth.Auth/Revoked", SERVICES, |_| auth::RevokedRequest::default().encode_to_vec()),
    row("tidings.dialog.Dialogs/Create", PEOPLE, |scene| {
        let title = Some("new".to_owned());
        let people = vec![scene.person.clone(), scene.message.sender_id.clone()];
        dialog::CreateRequest { participant_ids: people, title, client_key: None }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/AddParticipants", DONE_BY_MEMBERS, |scene| {
        let user_ids = vec![scene.person.clone()];
        dialog::AddParticipantsRequest { dialog_id: scene.dialog.clone(), user_ids }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/Leave", DONE_BY_MEMBERS, |scene| {
        dialog::LeaveRequest { dialog_id: scene.dialog.clone() }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/List", PEOPLE, |_| {
        dialog::ListRequest { first: 1, after: None }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/Get", TOLD_TO_MEMBERS, |scene| {
        dialog::GetRequest { ids: vec![scene.dialog.clone()] }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/History", TOLD_TO_MEMBERS, |scene| {
        let page =
            dialog::HistoryPage { dialog_id: scene.dialog.clone(), last: Some(1), ..Default::default() };
        dialog::HistoryRequest { pages: vec![page] }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/Messages", TOLD_TO_MEMBERS, |scene| {
        let transaction_ids = Vec::new();
        dialog::MessagesRequest { ids: vec![scene.message.id.clone()], transaction_ids }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/Send", DONE_BY_MEMBERS, |scene| {
        let text = "x".to_owned();
        dialog::SendRequest { dialog_id: scene.dialog.clone(), text, client_key: None }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/Delete", DONE_BY_OWNER, |scene| {
        dialog::DeleteRequest { message_id: scene.message.id.clone() }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/ReadTarget", DONE_BY_MEMBERS, |scene| {
        dialog::ReadTargetRequest { dialog_id: scene.dialog.clone(), message_id: None }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/MessagesSince", DONE_BY_MEMBERS, |scene| {
        dialog::MessagesSinceRequest { dialog_id: scene.dialog.clone(), since: None }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/ChangesSince", SERVICES, |scene| {
        dialog::ChangesSinceRequest { dialog_id: scene.dialog.clone(), since: 0, limit: 10 }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/Live", SERVICES, |scene| {
        let message_ids = vec![scene.message.id.clone()];
        dialog::LiveRequest { dialog_id: scene.dialog.clone(), message_ids, user_ids: Vec::new() }
            .encode_to_vec()
    }),
    row("tidings.counter.Counters/Unread", PEOPLE, |_| {
        counter::UnreadRequest { first: 1, at_least: None }.encode_to_vec()
    }),
    row("tidings.counter.Counters/Rows", TOLD_TO_MEMBERS, |scene| {
        counter::RowsRequest { dialog_ids: vec![scene.dialog.clone()], at_least: None }.encode_to_vec()
    }),
    row("tidings.counter.Counters/MarkRead", PEOPLE, |scene| {
        counter::MarkReadRequest { dialog_id: scene.dialog.clone(), seq: 1 }.encode_to_vec()
    }),
    row("tidings.counter.Counters/ReadStates", TOLD_TO_MEMBERS, |scene| {
        let page = counter::ReadStatesPage { dialog_id: scene.dialog.clone(), first: 1, after_user_id: None };
        counter::ReadStatesRequest { pages: vec![page] }.encode_to_vec()
    }),
    row("tidings.counter.Counters/Snapshots", SERVICES, |scene| {
        let of = counter::SnapshotOf { user_id: scene.person.clone(), since: None };
        counter::SnapshotsRequest { of: vec![of] }.encode_to_vec()
    }),
    row("tidings.counter.Counters/Settle", SERVICES, |_| counter::SettleRequest::default().encode_to_vec()),
];
