//! Permissions of GraphQL: a row for every root field of the schema, a column for every kind of caller.

use serde_json::{Value, json};

use crate::caller::PASSWORD;

/// Expected result of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The field has a value.
    Data,
    /// The field is null, the same as for objects that do not exist.
    Null,
    /// NOT_FOUND, the same as for objects that do not exist; for fields that cannot be null.
    NotFound,
    /// UNAUTHENTICATED: the caller must sign in first.
    Unauthenticated,
    /// The token is rejected before the operation is parsed: status 401, or the socket closes with 4403.
    TokenRejected,
}

use Outcome::{Data, NotFound, Null, TokenRejected, Unauthenticated};

/// Objects that an operation names.
#[derive(Clone)]
pub struct Targets {
    pub dialog: String,
    pub message: String,
    /// Id of a user who takes no part in the dialog.
    pub other_user: String,
    /// Refresh token of a session that no other case uses.
    pub refresh_token: String,
    /// Id of an open session of the owner that no other case uses.
    pub session: String,
    /// Unique in the test.
    pub number: usize,
}

/// A field with its result for every kind of caller.
pub struct Row {
    /// `Type.field`.
    pub field: &'static str,
    pub document: &'static str,
    pub variables: fn(&Targets) -> Value,
    pub expected: [Outcome; 7],
    /// The field ends the caller's sessions, so each case uses a new user.
    pub ends_sessions: bool,
}

const SIGNED_IN: [Outcome; 7] = [Data, Data, Data, Data, TokenRejected, Unauthenticated, TokenRejected];
const OPEN: [Outcome; 7] = [Data, Data, Data, Data, TokenRejected, Data, TokenRejected];
const VISIBLE_TO_PARTICIPANTS: [Outcome; 7] =
    [Data, Data, Null, Null, TokenRejected, Unauthenticated, TokenRejected];
const ALLOWED_TO_PARTICIPANTS: [Outcome; 7] =
    [Data, Data, NotFound, NotFound, TokenRejected, Unauthenticated, TokenRejected];
const ALLOWED_TO_AUTHOR: [Outcome; 7] =
    [Data, NotFound, NotFound, NotFound, TokenRejected, Unauthenticated, TokenRejected];

const fn row(
    field: &'static str,
    expected: [Outcome; 7],
    document: &'static str,
    variables: fn(&Targets) -> Value,
) -> Row {
    Row { field, document, variables, expected, ends_sessions: false }
}

const fn ends_sessions(row: Row) -> Row {
    Row { ends_sessions: true, ..row }
}

fn nothing(_: &Targets) -> Value {
    json!({})
}

fn dialog(targets: &Targets) -> Value {
    json!({"d": targets.dialog})
}

fn message(targets: &Targets) -> Value {
    json!({"m": targets.message})
}

fn credentials(targets: &Targets) -> Value {
    json!({"input": {"login": format!("made{}", targets.number), "password": PASSWORD}})
}

/// The table, with columns in the order of `CallerKind::CLIENTS`.
pub const TABLE: [Row; 29] = [
    row("Query.node", VISIBLE_TO_PARTICIPANTS, "query($d: ID!) { node(id: $d) { id } }", dialog),
    row(
        "Query.nodes",
        VISIBLE_TO_PARTICIPANTS,
        "query($d: ID!, $m: ID!) { nodes(ids: [$d, $m]) { id } }",
        |targets| json!({"d": targets.dialog, "m": targets.message}),
    ),
    row("Query.me", SIGNED_IN, "{ me { id login sessions { id } } }", nothing),
    row(
        "Query.user",
        SIGNED_IN,
        "query($p: ID!) { user(id: $p) { id name } }",
        |targets| json!({"p": targets.other_user}),
    ),
    row("Query.users", SIGNED_IN, "{ users(search: \"ann\") { nodes { id } } }", nothing),
    row(
        "Query.dialog",
        VISIBLE_TO_PARTICIPANTS,
        "query($d: ID!) { dialog(id: $d) { id title participantIds } }",
        dialog,
    ),
    row("Query.dialogs", SIGNED_IN, "{ dialogs { nodes { id } } }", nothing),
    row(
        "Query.dialogUnread",
        VISIBLE_TO_PARTICIPANTS,
        "query($d: ID!) { dialogUnread(dialogId: $d) { unread } }",
        dialog,
    ),
    row("Query.message", VISIBLE_TO_PARTICIPANTS, "query($m: ID) { message(id: $m) { id text } }", message),
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
        |targets| json!({"t": targets.refresh_token}),
    ),
    ends_sessions(row("Mutation.logout", SIGNED_IN, "mutation { logout }", nothing)),
    row(
        "Mutation.endSession",
        ALLOWED_TO_AUTHOR,
        "mutation($s: ID!) { endSession(id: $s) }",
        |targets| json!({"s": targets.session}),
    ),
    ends_sessions(row(
        "Mutation.changePassword",
        SIGNED_IN,
        "mutation($p: String!) { changePassword(old: $p, new: $p) { expiresAt } }",
        |_| json!({"p": PASSWORD}),
    )),
    row("Mutation.updateMe", SIGNED_IN, "mutation { updateMe(name: \"other_user\") { name } }", nothing),
    row(
        "Mutation.createDialog",
        SIGNED_IN,
        "mutation($p: ID!) { createDialog(input: {participantIds: [$p], title: \"new\"}) { id } }",
        |targets| json!({"p": targets.other_user}),
    ),
    row(
        "Mutation.addParticipants",
        ALLOWED_TO_PARTICIPANTS,
        "mutation($d: ID!, $p: ID!) { addParticipants(dialogId: $d, userIds: [$p]) { id } }",
        |targets| json!({"d": targets.dialog, "p": targets.other_user}),
    ),
    row(
        "Mutation.leaveDialog",
        ALLOWED_TO_PARTICIPANTS,
        "mutation($d: ID!) { leaveDialog(dialogId: $d) }",
        dialog,
    ),
    row(
        "Mutation.sendMessage",
        ALLOWED_TO_PARTICIPANTS,
        "mutation($d: ID!) { sendMessage(input: {dialogId: $d, text: \"x\"}) { id } }",
        dialog,
    ),
    row(
        "Mutation.deleteMessage",
        ALLOWED_TO_AUTHOR,
        "mutation($m: ID!) { deleteMessage(id: $m) { id } }",
        message,
    ),
    row(
        "Mutation.markRead",
        ALLOWED_TO_PARTICIPANTS,
        "mutation($d: ID!) { markRead(input: {dialogId: $d}) { total } }",
        dialog,
    ),
    row(
        "Mutation.renameDialog",
        ALLOWED_TO_PARTICIPANTS,
        "mutation($d: ID!) { renameDialog(dialogId: $d, title: \"renamed\") { id } }",
        dialog,
    ),
    row("Subscription.dialogs", SIGNED_IN, "subscription { dialogs { kind } }", nothing),
    row("Subscription.unread", SIGNED_IN, "subscription { unread { kind total } }", nothing),
    row(
        "Subscription.messages",
        ALLOWED_TO_PARTICIPANTS,
        "subscription($d: ID!) { messages(dialogId: $d) { kind } }",
        dialog,
    ),
    row(
        "Subscription.readStates",
        ALLOWED_TO_PARTICIPANTS,
        "subscription($d: ID!) { readStates(dialogId: $d) { readSeq } }",
        dialog,
    ),
    row(
        "Query._entities",
        ENTITIES,
        "query($d: ID!, $m: ID!) { _entities(representations: [
            {__typename: \"Dialog\", id: $d}, {__typename: \"Message\", id: $m}]) { __typename } }",
        |targets| json!({"d": targets.dialog, "m": targets.message}),
    ),
];

/// The list has nulls for objects that do not exist.
const ENTITIES: [Outcome; 7] = [Data, Data, Null, Null, TokenRejected, Unauthenticated, TokenRejected];
