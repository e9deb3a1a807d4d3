//! Permissions of GraphQL: every root field of the schema, for every kind of caller, on every transport.
//! The introspected schema lists the fields: a field without a row in the table fails, and so does a row
//! without a field.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use testkit::eventually;

use crate::{
    app::App,
    caller::Caller,
    caller_kind::CallerKind,
    permissions_table::{Outcome, Row, TABLE, Targets},
    transport::{Client, Operation, Response, TRANSPORTS, Transport},
};

/// Fields about the schema, which need no authentication.
const PUBLIC_FIELDS: [&str; 1] = ["Query._service"];

/// Cases that run concurrently: each spends most of its time waiting for the counters. A case opens several
/// sessions at once, and auth lets eight sign-ins of an address wait.
const CONCURRENCY: usize = 3;

/// A gateway with a user of every kind.
struct Fixture {
    app: App,
    owner: Caller,
    participant: Caller,
    left: Caller,
    outsider: Caller,
    /// A user who takes part in no dialog, for fields that need another user's id.
    other_user: Caller,
    logged_out: Caller,
    numbers: AtomicUsize,
}

impl Fixture {
    async fn new() -> Self {
        let app = App::start().await;
        let owner = Caller::register(&app, "ann").await;
        let participant = Caller::register(&app, "bob").await;
        let logged_out = Caller::login(&app, "bob").await;
        logged_out.data("mutation { logout }", json!({})).await;
        let left = Caller::register(&app, "cleo").await;
        let outsider = Caller::register(&app, "mallory").await;
        let other_user = Caller::register(&app, "dora").await;
        Self { app, owner, participant, left, outsider, other_user, logged_out, numbers: AtomicUsize::new(0) }
    }

    fn client(&self, kind: CallerKind) -> Client {
        let token = match kind {
            CallerKind::Owner => Some(&self.owner.token),
            CallerKind::Participant => Some(&self.participant.token),
            CallerKind::Left => Some(&self.left.token),
            CallerKind::Outsider => Some(&self.outsider.token),
            CallerKind::LoggedOut => Some(&self.logged_out.token),
            CallerKind::Anonymous | CallerKind::BadToken => None,
            CallerKind::Service | CallerKind::WrongService => unreachable!("no client of the gateway"),
        };
        let token = if kind == CallerKind::BadToken {
            Some(format!("{}x", self.owner.token))
        } else {
            token.cloned()
        };
        Client { url: self.app.url.clone(), http: self.owner.http.clone(), token }
    }

    /// Returns a number that is unique in the test.
    fn number(&self) -> usize {
        self.numbers.fetch_add(1, Relaxed) + 1
    }

    /// Returns a client of a new user of this kind, for fields that end the session.
    async fn new_client(&self, kind: CallerKind) -> Client {
        let caller = Caller::register(&self.app, &format!("new_caller{}", self.number())).await;
        let signed_in = !matches!(kind, CallerKind::LoggedOut | CallerKind::Anonymous | CallerKind::BadToken);
        if signed_in { Client::of(&caller) } else { self.client(kind) }
    }

    /// Creates a group of the owner, the participant and the user who leaves it, with a message of the
    /// owner. Waits until the counters have applied all of it.
    async fn targets(&self, row: &Row) -> Targets {
        let dialog = self.owner.create_group(&[&self.participant, &self.left], "three").await;
        let message = self.owner.send(&dialog, "words").await["id"].as_str().unwrap().to_owned();
        let counted = "query($d: ID!) { dialogUnread(dialogId: $d) { lastSeq } }";
        let known =
            async |caller: &Caller| caller.data(counted, json!({"d": dialog})).await["dialogUnread"].clone();
        let owner = &self.owner;
        let left = &self.left;
        eventually("the counters have applied the message", || async { known(owner).await["lastSeq"] == 1 })
            .await;
        let leave = "mutation($d: ID!) { leaveDialog(dialogId: $d) }";
        self.left.data(leave, json!({"d": dialog})).await;
        eventually("the counters have applied the departure", || async { known(left).await.is_null() }).await;
        let refreshes = row.field == "Mutation.refreshSession";
        let session =
            if refreshes { Caller::login(&self.app, "mallory").await } else { self.outsider.clone() };
        let refresh_token = session.refresh_token;
        let session = if row.field == "Mutation.endSession" {
            Caller::login(&self.app, "ann").await.session_id().await
        } else {
            String::new()
        };
        let other_user = self.other_user.id.clone();
        Targets { dialog, message, other_user, refresh_token, session, number: self.number() }
    }

    /// Returns targets that do not exist.
    fn absent(&self, targets: &Targets) -> Targets {
        let id = || uuid::Uuid::now_v7().to_string();
        Targets {
            dialog: id(),
            message: id(),
            other_user: targets.other_user.clone(),
            refresh_token: String::new(),
            session: id(),
            number: 0,
        }
    }
}

#[tokio::test]
async fn every_field_is_allowed_to_exactly_the_callers_of_its_row() {
    let fixture = Fixture::new().await;
    let mut cases = Vec::new();
    for row in &TABLE {
        for transport in
            TRANSPORTS.iter().filter(|transport| transport.carries(&Operation::document(row.document)))
        {
            cases.extend(
                CallerKind::CLIENTS
                    .into_iter()
                    .zip(row.expected)
                    .map(|(kind, expected)| (row, transport, kind, expected)),
            );
        }
    }
    let rejected = cases.iter().filter(|(.., expected)| *expected != Outcome::Data).count();
    // Queries change nothing, so all of them use the same targets.
    let unchanged = &fixture.targets(&TABLE[0]).await;
    let runs = stream::iter(&cases).map(|(row, transport, kind, expected)| {
        run_case(&fixture, unchanged, row, transport, *kind, *expected)
    });
    runs.buffer_unordered(CONCURRENCY).collect::<Vec<_>>().await;
    println!("permissions of fields: {} cases, {rejected} rejected", cases.len());
}

async fn run_case(
    fixture: &Fixture,
    unchanged: &Targets,
    row: &Row,
    transport: &Transport,
    kind: CallerKind,
    expected: Outcome,
) {
    let targets =
        if row.document.starts_with("mutation") { fixture.targets(row).await } else { unchanged.clone() };
    let client = if row.ends_sessions { fixture.new_client(kind).await } else { fixture.client(kind) };
    let execute = async |targets: &Targets| {
        (transport.execute)(&client, &Operation::new(row.document, (row.variables)(targets))).await
    };
    let response = execute(&targets).await;
    let case = format!("{} for {kind:?} by {}: {response:?}", row.field, transport.name);
    assert_eq!(outcome(row, &response), Some(expected), "{case}");
    if matches!(expected, Outcome::Null | Outcome::NotFound) {
        let absent = execute(&fixture.absent(&targets)).await;
        assert_eq!(
            (absent.status, &absent.answer),
            (response.status, &response.answer),
            "absent and forbidden look the same: {case}"
        );
    }
    assert!(expected == Outcome::Data || !response.answer.to_string().contains("words"), "{case}");
}

/// Classifies a response; `None` if it is none of the table's outcomes.
fn outcome(row: &Row, response: &Response) -> Option<Outcome> {
    let field = row.field.split('.').next_back().unwrap();
    let value = &response.answer["data"][field];
    let nothing = value.is_null() || value.as_array().is_some_and(|list| list.iter().all(Value::is_null));
    let rejected_token = response.status == Some(401) || response.close_code == Some(4403);
    match (response.code(), nothing) {
        // The mutation revokes its own session, so the socket may be closed before the response is sent.
        ("none", true) if row.ends_sessions && response.close_code == Some(4401) => Some(Outcome::Data),
        ("UNAUTHENTICATED", true) if response.status == Some(401) => Some(Outcome::TokenRejected),
        ("none", true) if rejected_token => Some(Outcome::TokenRejected),
        ("none", true) if response.answer.get("data").is_some() => Some(Outcome::Null),
        ("none", false) => Some(Outcome::Data),
        ("NOT_FOUND", true) => Some(Outcome::NotFound),
        ("UNAUTHENTICATED", true) => Some(Outcome::Unauthenticated),
        _ => None,
    }
}

#[tokio::test]
async fn fields_and_rows_correspond() {
    let app = App::start().await;
    let client = Client { url: app.url.clone(), http: reqwest::Client::new(), token: None };
    let roots = "{ __schema { types { kind name fields { name } }
        queryType { name } mutationType { name } subscriptionType { name } } }";
    let response = (TRANSPORTS[0].execute)(&client, &Operation::document(roots)).await;
    let schema = &response.answer["data"]["__schema"];
    let mut fields = BTreeSet::new();
    for root in ["queryType", "mutationType", "subscriptionType"] {
        let name = schema[root]["name"].as_str().unwrap();
        let of_root = schema["types"].as_array().unwrap().iter().find(|kind| kind["name"] == name).unwrap();
        let names = of_root["fields"].as_array().unwrap().iter();
        fields.extend(names.map(|field| format!("{name}.{}", field["name"].as_str().unwrap())));
    }
    // The fields of federation are in the schema, but introspection hides them.
    fields.extend(["Query._entities", "Query._service"].map(str::to_owned));
    let rows: BTreeSet<_> =
        TABLE.iter().map(|row| row.field).chain(PUBLIC_FIELDS).map(str::to_owned).collect();
    assert_eq!(rows.difference(&fields).collect::<Vec<_>>(), Vec::<&String>::new(), "rows without a field");
    assert_eq!(fields.difference(&rows).collect::<Vec<_>>(), Vec::<&String>::new(), "fields without a row");
}
