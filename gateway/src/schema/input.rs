//! What mutations take.

use async_graphql::{ID, InputObject};

/// A new person.
#[derive(InputObject)]
pub struct RegisterInput {
    /// 3 to 32 characters of `a-z`, `0-9`, `_`, `.`, `-`; CONFLICT where it is taken.
    pub login: String,
    /// 8 to 256 characters.
    pub password: String,
    /// What the person is called, 1 to 64 characters; the login where it is left out.
    pub name: Option<String>,
}

/// A person who comes back.
#[derive(InputObject)]
pub struct LoginInput {
    /// As registered.
    pub login: String,
    /// As registered.
    pub password: String,
}

/// A new dialog. Two people without a title have one dialog for ever: it is made or found.
#[derive(InputObject)]
pub struct CreateDialogInput {
    /// Whom to talk with; the caller is always a participant and need not be named. 2 to 1,000 people in all.
    pub participant_ids: Vec<ID>,
    /// What a group is called, 1 to 64 characters. Without it two people get their direct dialog.
    pub title: Option<String>,
    /// 1 to 64 characters of your choice: a repeated call with the same key finds the dialog of the first.
    pub client_key: Option<String>,
}

/// A new message.
#[derive(InputObject)]
pub struct SendMessageInput {
    /// Where.
    pub dialog_id: ID,
    /// What: 1 to 4,000 characters.
    pub text: String,
    /// 1 to 64 characters of your choice: a repeated call with the same key, dialog and text answers with the message of
    /// the first and sends nothing; with another dialog or text it is CONFLICT. Use it to repeat a call whose answer was
    /// lost; after FAILED take a new key.
    pub client_key: Option<String>,
}

/// How far the caller has read.
#[derive(InputObject)]
pub struct MarkReadInput {
    /// Where.
    pub dialog_id: ID,
    /// The newest message that was read; everything stored so far where it is left out. Reading never goes back: an older
    /// message changes nothing.
    pub up_to: Option<ID>,
}
