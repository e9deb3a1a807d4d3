//! Permissions of the services' gRPC calls: a row for every call, a column for every kind of caller.
//!
//! Services accept an access token until it expires. Revoked sessions are known only to the gateway, and
//! to auth for calls about the session itself. Therefore most calls still work for the kind `LoggedOut`.

use prost::Message;
use proto::{auth, counter, dialog};

use crate::caller::PASSWORD;

/// Expected result of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The call succeeds.
    Done,
    /// The reply is empty, the same as for objects that do not exist.
    Nothing,
    /// NOT_FOUND, the same as for objects that do not exist.
    NotFound,
    /// UNAUTHENTICATED.
    Unauthenticated,
    /// PERMISSION_DENIED: only services may call this.
    PermissionDenied,
}

use Outcome::{Done, NotFound, Nothing, PermissionDenied, Unauthenticated};

/// Objects that a request names.
pub struct Targets {
    pub dialog: Vec<u8>,
    pub message: dialog::Message,
    /// Id of a user who takes no part in the dialog.
    pub other_user: Vec<u8>,
    /// Refresh token of a session that no other case uses.
    pub refresh_token: String,
    /// Id of an open session of the owner that no other case uses.
    pub session: Vec<u8>,
    /// Unique in the test.
    pub number: usize,
}

/// A call with its result for every kind of caller.
pub struct Row {
    /// `package.Service/Call`.
    pub call: &'static str,
    pub request: fn(&Targets) -> Vec<u8>,
    pub expected: [Outcome; 9],
    /// The call ends the caller's sessions, so each case uses a new user.
    pub ends_sessions: bool,
}

const OPEN: [Outcome; 9] = [Done; 9];
const USERS: [Outcome; 9] =
    [Done, Done, Done, Done, Done, Unauthenticated, Unauthenticated, Unauthenticated, Unauthenticated];
const ACTIVE_SESSIONS: [Outcome; 9] = [
    Done,
    Done,
    Done,
    Done,
    Unauthenticated,
    Unauthenticated,
    Unauthenticated,
    Unauthenticated,
    Unauthenticated,
];
const VISIBLE_TO_PARTICIPANTS: [Outcome; 9] =
    [Done, Done, Nothing, Nothing, Done, Unauthenticated, Unauthenticated, Unauthenticated, Unauthenticated];
const ALLOWED_TO_PARTICIPANTS: [Outcome; 9] = [
    Done,
    Done,
    NotFound,
    NotFound,
    Done,
    Unauthenticated,
    Unauthenticated,
    Unauthenticated,
    Unauthenticated,
];
const ALLOWED_TO_AUTHOR: [Outcome; 9] = [
    Done,
    NotFound,
    NotFound,
    NotFound,
    NotFound,
    Unauthenticated,
    Unauthenticated,
    Unauthenticated,
    Unauthenticated,
];
const SERVICES: [Outcome; 9] = [
    PermissionDenied,
    PermissionDenied,
    PermissionDenied,
    PermissionDenied,
    PermissionDenied,
    Unauthenticated,
    PermissionDenied,
    Done,
    Unauthenticated,
];

const ALLOWED_TO_USER_OF_SESSION: [Outcome; 9] = [
    Done,
    NotFound,
    NotFound,
    NotFound,
    Unauthenticated,
    Unauthenticated,
    Unauthenticated,
    Unauthenticated,
    Unauthenticated,
];

const fn row(call: &'static str, expected: [Outcome; 9], request: fn(&Targets) -> Vec<u8>) -> Row {
    Row { call, request, expected, ends_sessions: false }
}

const fn ends_sessions(row: Row) -> Row {
    Row { ends_sessions: true, ..row }
}

/// The table, with columns in the order of `CallerKind::ALL`.
pub const TABLE: [Row; 37] = [
    row("tidings.auth.Auth/Register", OPEN, |targets| {
        let login = format!("made{}", targets.number);
        auth::RegisterRequest { login, password: PASSWORD.to_owned(), ..Default::default() }.encode_to_vec()
    }),
    row("tidings.auth.Auth/Login", OPEN, |_| {
        let login = "ann".to_owned();
        auth::LoginRequest { login, password: PASSWORD.to_owned(), ..Default::default() }.encode_to_vec()
    }),
    row("tidings.auth.Auth/Refresh", OPEN, |targets| {
        auth::RefreshRequest { refresh_token: targets.refresh_token.clone(), ..Default::default() }
            .encode_to_vec()
    }),
    ends_sessions(row("tidings.auth.Auth/Logout", ACTIVE_SESSIONS, |_| {
        auth::LogoutRequest::default().encode_to_vec()
    })),
    ends_sessions(row("tidings.auth.Auth/ChangePassword", ACTIVE_SESSIONS, |_| {
        auth::ChangePasswordRequest { old: PASSWORD.to_owned(), new: PASSWORD.to_owned() }.encode_to_vec()
    })),
    row("tidings.auth.Auth/Sessions", ACTIVE_SESSIONS, |_| auth::SessionsRequest::default().encode_to_vec()),
    row("tidings.auth.Auth/EndSession", ALLOWED_TO_USER_OF_SESSION, |targets| {
        auth::EndSessionRequest { session_id: targets.session.clone() }.encode_to_vec()
    }),
    row("tidings.auth.Auth/Rename", ACTIVE_SESSIONS, |_| {
        auth::RenameRequest { name: "other_user".to_owned() }.encode_to_vec()
    }),
    row("tidings.auth.Auth/Users", USERS, |targets| {
        auth::UsersRequest { ids: vec![targets.other_user.clone()] }.encode_to_vec()
    }),
    row("tidings.auth.Auth/Search", USERS, |_| {
        auth::SearchRequest { prefix: "ann".to_owned(), first: 1, after_login: None }.encode_to_vec()
    }),
    row("tidings.auth.Auth/Keys", OPEN, |_| auth::KeysRequest::default().encode_to_vec()),
    row("tidings.auth.Auth/RevokedSince", SERVICES, |_| auth::RevokedSinceRequest::default().encode_to_vec()),
    row("tidings.dialog.Dialogs/Create", USERS, |targets| {
        let title = Some("new".to_owned());
        let users = vec![targets.other_user.clone(), targets.message.sender_id.clone()];
        dialog::CreateRequest { participant_ids: users, title, client_key: None }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/AddParticipants", ALLOWED_TO_PARTICIPANTS, |targets| {
        let user_ids = vec![targets.other_user.clone()];
        dialog::AddParticipantsRequest { dialog_id: targets.dialog.clone(), user_ids }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/Leave", ALLOWED_TO_PARTICIPANTS, |targets| {
        dialog::LeaveRequest { dialog_id: targets.dialog.clone() }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/List", USERS, |_| {
        dialog::ListRequest { first: 1, after: None, participants_first: None }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/Get", VISIBLE_TO_PARTICIPANTS, |targets| {
        dialog::GetRequest { ids: vec![targets.dialog.clone()] }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/History", VISIBLE_TO_PARTICIPANTS, |targets| {
        let page =
            dialog::HistoryPage { dialog_id: targets.dialog.clone(), last: Some(1), ..Default::default() };
        dialog::HistoryRequest { pages: vec![page] }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/Messages", VISIBLE_TO_PARTICIPANTS, |targets| {
        let transaction_ids = Vec::new();
        dialog::MessagesRequest { ids: vec![targets.message.id.clone()], transaction_ids }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/Send", ALLOWED_TO_PARTICIPANTS, |targets| {
        let text = "x".to_owned();
        let dialog_id = targets.dialog.clone();
        dialog::SendRequest { dialog_id, text, ..Default::default() }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/Delete", ALLOWED_TO_AUTHOR, |targets| {
        dialog::DeleteRequest { message_id: targets.message.id.clone() }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/ReadTarget", ALLOWED_TO_PARTICIPANTS, |targets| {
        dialog::ReadTargetRequest { dialog_id: targets.dialog.clone(), message_id: None }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/MessagesSince", ALLOWED_TO_PARTICIPANTS, |targets| {
        dialog::MessagesSinceRequest { dialog_id: targets.dialog.clone(), since: None }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/DialogVersions", SERVICES, |_| {
        dialog::DialogVersionsRequest { after_id: None, limit: 10 }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/ChangesSince", SERVICES, |targets| {
        dialog::ChangesSinceRequest { dialog_id: targets.dialog.clone(), since: 0, limit: 10 }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/Rename", ALLOWED_TO_PARTICIPANTS, |targets| {
        let title = "renamed".to_owned();
        dialog::RenameRequest { dialog_id: targets.dialog.clone(), title }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/Participants", SERVICES, |targets| {
        dialog::ParticipantsRequest { dialog_id: targets.dialog.clone() }.encode_to_vec()
    }),
    row("tidings.dialog.Dialogs/Live", SERVICES, |targets| {
        let message_ids = vec![targets.message.id.clone()];
        dialog::LiveRequest { dialog_id: targets.dialog.clone(), message_ids, user_ids: Vec::new() }
            .encode_to_vec()
    }),
    row("tidings.counter.Counters/Unread", USERS, |_| {
        counter::UnreadRequest { first: 1, at_least: None }.encode_to_vec()
    }),
    row("tidings.counter.Counters/Rows", VISIBLE_TO_PARTICIPANTS, |targets| {
        counter::RowsRequest { dialog_ids: vec![targets.dialog.clone()], at_least: None }.encode_to_vec()
    }),
    row("tidings.counter.Counters/MarkRead", USERS, |targets| {
        counter::MarkReadRequest { dialog_id: targets.dialog.clone(), seq: 1 }.encode_to_vec()
    }),
    row("tidings.counter.Counters/ReadStates", VISIBLE_TO_PARTICIPANTS, |targets| {
        let page =
            counter::ReadStatesPage { dialog_id: targets.dialog.clone(), first: 1, after_user_id: None };
        counter::ReadStatesRequest { pages: vec![page] }.encode_to_vec()
    }),
    row("tidings.counter.Counters/UnreadMessages", VISIBLE_TO_PARTICIPANTS, |targets| {
        let page = counter::UnreadMessagesPage { dialog_id: targets.dialog.clone(), first: 1, after_seq: 0 };
        counter::UnreadMessagesRequest { pages: vec![page] }.encode_to_vec()
    }),
    row("tidings.counter.Counters/Snapshots", SERVICES, |targets| {
        let of = counter::SnapshotOf { user_id: targets.other_user.clone(), since: None };
        counter::SnapshotsRequest { of: vec![of] }.encode_to_vec()
    }),
    row("tidings.counter.Counters/Leave", SERVICES, |_| {
        counter::LeaveRequest { dialog_id: vec![1; 16], user_id: vec![2; 16], version: 1 }.encode_to_vec()
    }),
    row("tidings.counter.Counters/Seen", SERVICES, |_| {
        counter::SeenRequest { user_id: vec![2; 16], version: None }.encode_to_vec()
    }),
    row("tidings.counter.Counters/Settle", SERVICES, |_| counter::SettleRequest::default().encode_to_vec()),
];
