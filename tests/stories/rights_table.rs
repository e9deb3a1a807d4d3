//! Who may do what, field by field: a row for every root field of the schema, a column for every kind of caller.

use serde_json::{Value, json};

use crate::person::PASSWORD;

/// Who asks.
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
}

/// The columns of the table, in its order.
pub const EVERYONE: [Who; 7] =
    [Who::Owner, Who::Participant, Who::Left, Who::Stranger, Who::LoggedOut, Who::Anonymous, Who::BadToken];

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done, or told.
    Data,
    /// Nothing is there, as far as this caller can see.
    Null,
    /// The same, where nothing cannot be said without an error.
    NotFound,
    /// One has to sign in first.
    SignIn,
    /// The token is refused, whatever was asked: 401, or the socket closes with 4403.
    Token,
}

use Outcome::{Data, NotFound, Null, SignIn, Token};

/// What a document speaks of.
#[derive(Clone)]
pub struct Scene {
    pub dialog: String,
    pub message: String,
    /// Somebody to talk with.
    pub person: String,
    /// Of a session that nothing else is done with.
    pub refresh_token: String,
    /// Never given twice.
    pub number: usize,
}

/// A field, and what becomes of it for everyone.
pub struct Row {
    /// `Type.field`.
    pub field: &'static str,
    pub document: &'static str,
    pub variables: fn(&Scene) -> Value,
    pub expected: [Outcome; 7],
    /// Whether it ends the caller's sessions: it is tried by somebody of its own.
    pub ends_sessions: bool,
}

const SIGNED_IN: [Outcome; 7] = [Data, Data, Data, Data, Token, SignIn, Token];
const OPEN: [Outcome; 7] = [Data, Data, Data, Data, Token, Data, Token];
const SHOWN_TO_MEMBERS: [Outcome; 7] = [Data, Data, Null, Null, Token, SignIn, Token];
const DONE_BY_MEMBERS: [Outcome; 7] = [Data, Data, NotFound, NotFound, Token, SignIn, Token];
const DONE_BY_OWNER: [Outcome; 7] = [Data, NotFound, NotFound, NotFound, Token, SignIn, Token];

const fn row(
    field: &'static str,
    expected: [Outcome; 7],
    document: &'static str,
    variables: fn(&Scene) -> Value,
) -> Row {
    Row { field, document, variables, expected, ends_sessions: false }
}

const fn ending(row: Row) -> Row {
    Row { ends_sessions: true, ..row }
}

fn nothing(_: &Scene) -> Value {
    json!({})
}

fn dialog(scene: &Scene) -> Value {
    json!({"d": scene.dialog})
}

fn message(scene: &Scene) -> Value {
    json!({"m": scene.message})
}

fn credentials(scene: &Scene) -> Value {
    json!({"input": {"login": format!("made{}", scene.number), "password": PASSWORD}})
}

/// The table.
pub const TABLE: [Row; 24] = [
    row("Query.me", SIGNED_IN, "{ me { id login } }", nothing),
    row(
        "Query.user",
        SIGNED_IN,
        "query($p: ID!) { user(id: $p) { id name } }",
        |scene| json!({"p": scene.person}),
    ),
    row("Query.users", SIGNED_IN, "{ users(search: \"ann\") { nodes { id } } }", nothing),
    row(
        "Query.dialog",
        SHOWN_TO_MEMBERS,
        "query($d: ID!) { dialog(id: $d) { id title participantIds } }",
        dialog,
    ),
    row("Query.dialogs", SIGNED_IN, "{ dialogs { nodes { id } } }", nothing),
    row(
        "Query.dialogUnread",
        SHOWN_TO_MEMBERS,
        "query($d: ID!) { dialogUnread(dialogId: $d) { unread } }",
        dialog,
    ),
    row("Query.message", SHOWN_TO_MEMBERS, "query($m: ID) { message(id: $m) { id text } }", message),
    row("Query.unread", SIGNED_IN, "{ unread { total version } }", nothing),
    row(
        "Mutation.register",
        OPEN,
        "mutation($input: RegisterInput!) { register(input: $input) { expiresAt } }",
        credentials,
    ),
    row(
        "Mutation.login",
        OPEN,
        "mutation($input: LoginInput!) { login(input: $input) { expiresAt } }",
        |_| json!({"input": {"login": "ann", "password": PASSWORD}}),
    ),
    row(
        "Mutation.refreshSession",
        OPEN,
        "mutation($t: String!) { refreshSession(refreshToken: $t) { expiresAt } }",
        |scene| json!({"t": scene.refresh_token}),
    ),
    ending(row("Mutation.logout", SIGNED_IN, "mutation { logout }", nothing)),
    ending(row(
        "Mutation.changePassword",
        SIGNED_IN,
        "mutation($p: String!) { changePassword(old: $p, new: $p) { expiresAt } }",
        |_| json!({"p": PASSWORD}),
    )),
    row("Mutation.updateMe", SIGNED_IN, "mutation { updateMe(name: \"somebody\") { name } }", nothing),
    row(
        "Mutation.createDialog",
        SIGNED_IN,
        "mutation($p: ID!) { createDialog(input: {participantIds: [$p], title: \"new\"}) { id } }",
        |scene| json!({"p": scene.person}),
    ),
    row(
        "Mutation.addParticipants",
        DONE_BY_MEMBERS,
        "mutation($d: ID!, $p: ID!) { addParticipants(dialogId: $d, userIds: [$p]) { id } }",
        |scene| json!({"d": scene.dialog, "p": scene.person}),
    ),
    row("Mutation.leaveDialog", DONE_BY_MEMBERS, "mutation($d: ID!) { leaveDialog(dialogId: $d) }", dialog),
    row(
        "Mutation.sendMessage",
        DONE_BY_MEMBERS,
        "mutation($d: ID!) { sendMessage(input: {dialogId: $d, text: \"x\"}) { id } }",
        dialog,
    ),
    row(
        "Mutation.deleteMessage",
        DONE_BY_OWNER,
        "mutation($m: ID!) { deleteMessage(id: $m) { id } }",
        message,
    ),
    row(
        "Mutation.markRead",
        DONE_BY_MEMBERS,
        "mutation($d: ID!) { markRead(input: {dialogId: $d}) { total } }",
        dialog,
    ),
    row("Subscription.unread", SIGNED_IN, "subscription { unread { kind total } }", nothing),
    row(
        "Subscription.messages",
        DONE_BY_MEMBERS,
        "subscription($d: ID!) { messages(dialogId: $d) { kind } }",
        dialog,
    ),
    row(
        "Subscription.readStates",
        DONE_BY_MEMBERS,
        "subscription($d: ID!) { readStates(dialogId: $d) { readSeq } }",
        dialog,
    ),
    row(
        "Query._entities",
        ENTITIES,
        "query($d: ID!, $m: ID!) { _entities(representations: [{__typename: \"Dialog\", id: $d}, {__typename: \"Message\", id: $m}]) { __typename } }",
        |scene| json!({"d": scene.dialog, "m": scene.message}),
    ),
];

/// A list with nulls for what is not there, and no data without sign-in.
const ENTITIES: [Outcome; 7] = [Data, Data, Null, Null, Token, SignIn, Token];
