//! Input types of the mutations. Values are passed on as text; the owning service validates them.

use async_graphql::{ID, InputObject};

/// A new user account.
#[derive(InputObject)]
pub struct RegisterInput {
    /// The sign-in name: 3 to 32 of the characters `a-z`, `0-9`, `_`, `.` and `-`. White space around it is
    /// removed and capital letters are lowercased. CONFLICT if it is taken.
    pub login: String,
    /// The password, 8 to 256 characters. Two Unicode spellings of the same text are the same password.
    pub password: String,
    /// The display name, 1 to 64 characters. Defaults to the login.
    pub name: Option<String>,
    /// The name of the device in the list of sessions, 1 to 64 characters.
    pub device_name: Option<String>,
}

/// Credentials of an existing user.
#[derive(InputObject)]
pub struct LoginInput {
    /// The login, as registered.
    pub login: String,
    /// The current password.
    pub password: String,
    /// The name of the device in the list of sessions, 1 to 64 characters.
    pub device_name: Option<String>,
}

/// A new dialog. Two users have at most one dialog without a title; if it exists, it is returned.
#[derive(InputObject)]
pub struct CreateDialogInput {
    /// The ids of the participants: 2 to 1,000 users including the caller, who may be left out.
    pub participant_ids: Vec<ID>,
    /// The title of a group, 1 to 64 characters. Without it, two users get their direct dialog.
    pub title: Option<String>,
    /// An idempotency key, 1 to 64 characters. Repeating the call with the same key returns the dialog
    /// of the first call; the same key with other participants or another title is CONFLICT.
    pub client_key: Option<String>,
}

/// A new message.
#[derive(InputObject)]
pub struct SendMessageInput {
    /// The dialog to send to.
    pub dialog_id: ID,
    /// The text, 1 to 4,000 characters, at least one of them visible. Every line end becomes a line feed.
    pub text: String,
    /// An idempotency key, 1 to 64 characters. Repeating the call with the same key, dialog and text
    /// returns the message of the first call and sends nothing; the same key with another dialog or text
    /// is CONFLICT. Use it to retry a call whose response was lost. To send a FAILED message again, use
    /// a new key.
    pub client_key: Option<String>,
    /// The newest message of the dialog that the caller has seen. The message and everything before it is
    /// marked as read when the new message is counted. Messages that arrive between the two stay unread.
    pub read_up_to: Option<ID>,
}

/// The position up to which the caller has read a dialog.
#[derive(InputObject)]
pub struct MarkReadInput {
    /// The dialog that was read.
    pub dialog_id: ID,
    /// The newest message that was read. Defaults to the newest message of the dialog. The read position
    /// only moves forward: an older message changes nothing.
    pub up_to: Option<ID>,
}
