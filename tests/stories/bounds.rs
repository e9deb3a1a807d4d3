//! Every bound of an operation on every transport: at the bound it is accepted, one beyond it is refused with its code and
//! nothing is done.

use std::{iter::repeat_n, time::Instant};

use db::{Db, query};
use serde_json::{Value, json};

use crate::{
    app::App,
    bad_input::{ADD, CREATE, REGISTER, SEND},
    person::{PASSWORD, Person},
    transport::{Asked, Caller, Kind, TRANSPORTS, Told, Transport},
};

/// A bound: what it lets through, at its very edge, and what it does not.
struct Bound {
    name: &'static str,
    /// The code of what is refused.
    code: &'static str,
    /// Made with a number that is never given twice.
    within: Box<dyn Fn(usize) -> Asked>,
    /// What comes after the bound may still say of it; `none` where it is executed to its end.
    then: &'static str,
    beyond: Vec<Asked>,
}

impl Bound {
    fn new(
        name: &'static str,
        code: &'static str,
        within: impl Fn(usize) -> Asked + 'static,
        beyond: Vec<Asked>,
    ) -> Self {
        Self { name, code, within: Box::new(within), then: "none", beyond }
    }

    /// Of a document.
    fn document(name: &'static str, within: String, beyond: String) -> Self {
        Self::new(name, "LIMIT_EXCEEDED", move |_| Asked::bare(within.clone()), vec![Asked::bare(beyond)])
    }

    /// Of a value.
    fn value(name: &'static str, within: impl Fn(usize) -> Asked + 'static, beyond: Vec<Asked>) -> Self {
        Self::new(name, "BAD_USER_INPUT", within, beyond)
    }

    fn then(self, then: &'static str) -> Self {
        Self { then, ..self }
    }
}

/// Whom and what the rows speak of.
struct Place {
    app: App,
    ann: Person,
    bob: Person,
    dialog: String,
    /// A cursor of the list of dialogs.
    cursor: String,
    caller: Caller,
}

impl Place {
    async fn new() -> Self {
        let app = App::start().await;
        let (ann, bob) = (Person::register(&app, "ann").await, Person::register(&app, "bob").await);
        let dialog = ann.create_group(&[&bob], "two").await;
        ann.send(&dialog, "hello").await;
        let cursors = ann.data("{ dialogs { pageInfo { endCursor } } }", json!({})).await;
        let cursor = cursors["dialogs"]["pageInfo"]["endCursor"].as_str().unwrap().to_owned();
        let caller = Caller::of(&ann);
        Self { app, ann, bob, dialog, cursor, caller }
    }

    /// Whatever a refused operation might have changed.
    async fn inventory(&self) -> Value {
        let everything =
            "{ me { name } dialogs(first: 100) { nodes { id title participantIds lastMessage { id } } }
            users(search: \"bounds\", first: 100) { nodes { id name } } }";
        self.ann.data(everything, json!({})).await
    }

    async fn calls(&self) -> f64 {
        self.app.metric("grpc_client_calls_total").await
    }

    /// Tries every row on every transport that carries it; how many cells that were.
    async fn walk(&self, bounds: &[Bound]) -> usize {
        let mut cells = 0;
        for (row, bound) in bounds.iter().enumerate() {
            for (column, transport) in TRANSPORTS.iter().enumerate() {
                let within = (bound.within)(row * TRANSPORTS.len() + column);
                if !transport.carries(&within) {
                    continue;
                }
                let place = format!("{} by {}", bound.name, transport.name);
                let told = (transport.ask)(&self.caller, &within).await;
                assert_eq!(told.code(), bound.then, "at the bound: {place}: {told:?}");
                for beyond in &bound.beyond {
                    self.is_refused(transport, bound, beyond, &place).await;
                }
                cells += 1 + bound.beyond.len();
            }
        }
        cells
    }

    async fn is_refused(&self, transport: &Transport, bound: &Bound, beyond: &Asked, place: &str) {
        let (before, calls) = (self.inventory().await, self.calls().await);
        let told = (transport.ask)(&self.caller, beyond).await;
        let what: String = beyond.document.chars().take(120).collect();
        assert_eq!(told.code(), bound.code, "beyond the bound: {place}: {what}: {told:?}");
        if bound.code == "LIMIT_EXCEEDED" {
            assert_eq!(self.calls().await, calls, "{place}: no service was called");
            assert!(told.answer.get("data").is_none(), "{place}: nothing was executed: {told:?}");
        }
        is_status_of(transport, bound.code, &told, place);
        assert_eq!(self.inventory().await, before, "{place}: nothing has changed");
    }
}

/// The status of §8, where the operation came alone.
fn is_status_of(transport: &Transport, code: &str, told: &Told, place: &str) {
    let expected = match (transport.kind, code) {
        (Kind::Socket, _) => None,
        (Kind::Answer | Kind::Link | Kind::Stream, "LIMIT_EXCEEDED") => Some(400),
        _ => Some(200),
    };
    assert_eq!(told.status, expected, "{place}");
}

fn times(count: usize, text: &str) -> String {
    repeat_n(text, count).collect::<Vec<_>>().join(" ")
}

/// Fields inside each other, so many below the first.
fn deep(first: &str, field: &str, count: usize, last: &str) -> String {
    format!("{{ {first} {} {last} {} }}", format!("{{ {field} ").repeat(count), "}".repeat(count))
}

fn documents() -> Vec<Bound> {
    let numbered = |count: usize| (0..count).map(|n| format!("a{n}: id")).collect::<Vec<_>>().join(" ");
    // 24 tokens are around the list.
    let tokens = |count: usize| {
        let list = times(count - 24, "1");
        format!(
            "{{ _entities(representations: [{{ __typename: \"User\" id: \"x\" list: [{list}] }}]) {{ __typename }} }}"
        )
    };
    let brackets = |count: usize| {
        let (open, close) = ("[".repeat(count - 4), "]".repeat(count - 4));
        format!(
            "{{ _entities(representations: [{{ __typename: \"User\" id: \"x\" list: {open}{close} }}]) {{ __typename }} }}"
        )
    };
    let entities = |count: usize| {
        let list = times(count, "{ __typename: \"User\" id: \"x\" }");
        format!("{{ _entities(representations: [{list}]) {{ __typename }} }}")
    };
    let directives = |count: usize| {
        format!("{{ me {{ {} name @include(if: true) }} }}", times(count - 1, "id @include(if: true)"))
    };
    let nested = |count: usize| format!("{{ me {}{{ id }}{} }}", "{ ... ".repeat(count), " }".repeat(count));
    let introspection = |depth: usize| deep("__type(name: \"User\")", "ofType", depth - 2, "{ name }");
    let costs = |messages: usize, users: &str| {
        format!(
            "{{ dialogs(first: 100) {{ nodes {{ messages(first: {messages}) {{ nodes {{ seq }} }} }} }} {users} }}"
        )
    };
    vec![
        Bound::document("15,000 tokens", tokens(15_000), tokens(15_001)),
        Bound::document("64 brackets", brackets(64), brackets(65)),
        // No path through the schema is so deep: what passes the bound is found unknown afterwards.
        Bound::document("depth 12", deep("me", "id", 10, "{ id }"), deep("me", "id", 11, "{ id }"))
            .then("GRAPHQL_VALIDATION_FAILED"),
        Bound::document("depth 20 of introspection", introspection(20), introspection(21)),
        Bound::document("2 lists in each other of introspection", introspected(2), introspected(3)),
        Bound::document(
            "30 aliases",
            format!("{{ me {{ {} }} }}", numbered(30)),
            format!("{{ me {{ {} }} }}", numbered(31)),
        ),
        Bound::document("50 directives", directives(50), directives(51)),
        Bound::document(
            "20 root fields",
            format!("{{ {} }}", times(20, "__typename")),
            format!("{{ {} }}", times(21, "__typename")),
        ),
        Bound::document(
            "50 repetitions",
            format!("{{ me {{ {} }} }}", times(50, "id")),
            format!("{{ me {{ {} }} }}", times(51, "id")),
        ),
        Bound::document("50 fragments in each other", nested(50), nested(51)),
        Bound::document("100 entities", entities(100), entities(101)),
        Bound::document(
            "cost 20,000",
            costs(98, "users(search: \"an\", first: 99) { nodes { id } }"),
            costs(99, ""),
        ),
        {
            let list = |count: usize| json!({"r": vec![json!({"__typename": "User", "id": "x"}); count]});
            let document = "query($r: [_Any!]!) { _entities(representations: $r) { __typename } }";
            let within = move |_| Asked::new(document, list(100));
            Bound::new(
                "100 entities in a variable",
                "LIMIT_EXCEEDED",
                within,
                vec![Asked::new(document, list(101))],
            )
        },
    ]
}

fn introspected(lists: usize) -> String {
    format!(
        "{{ __type(name: \"User\") {{ {} name {} }} }}",
        "fields { type { ".repeat(lists),
        "} }".repeat(lists)
    )
}

#[tokio::test]
async fn the_bounds_of_documents_hold_on_every_transport() {
    let place = Place::new().await;
    println!("bounds of documents: {} cells tried", place.walk(&documents()).await);
}

const RENAME: &str = "mutation($name: String!) { updateMe(name: $name) { name } }";
const PASSWORDS: &str =
    "mutation($old: String!, $new: String!) { changePassword(old: $old, new: $new) { expiresAt } }";

fn sends(place: &Place) -> Vec<Bound> {
    let dialog = place.dialog.clone();
    let send = move |text: String, key: Option<String>| {
        Asked::new(SEND, json!({"input": {"dialogId": dialog, "text": text, "clientKey": key}}))
    };
    let bob = place.bob.id.clone();
    let create = move |title: Option<String>, key: Option<String>| {
        Asked::new(CREATE, json!({"input": {"participantIds": [bob], "title": title, "clientKey": key}}))
    };
    let long_key = |n: usize| Some(format!("{n:0>64}"));
    let (said, keyed) = (send.clone(), send.clone());
    let (titled, made) = (create.clone(), create.clone());
    vec![
        Bound::value(
            "a text of 1 to 4,000",
            move |n| said(if n % 2 == 0 { "ü".repeat(4_000) } else { "x".to_owned() }, None),
            vec![send(String::new(), None), send("x".repeat(4_001), None), send("\u{0}".to_owned(), None)],
        ),
        Bound::value(
            "a client key of 1 to 64 for a message",
            move |n| keyed("x".to_owned(), long_key(n)),
            vec![send("x".to_owned(), Some(String::new())), send("x".to_owned(), Some("k".repeat(65)))],
        ),
        Bound::value(
            "a title of 1 to 64",
            move |_| titled(Some("t".repeat(64)), None),
            vec![create(Some(String::new()), None), create(Some("t".repeat(65)), None)],
        ),
        Bound::value(
            "a client key of 1 to 64 for a dialog",
            move |n| made(Some("keyed".to_owned()), long_key(n)),
            vec![
                create(Some("x".to_owned()), Some(String::new())),
                create(Some("x".to_owned()), Some("k".repeat(65))),
            ],
        ),
    ]
}

fn people() -> Vec<Bound> {
    let register = |login: String, password: &str, name: Option<String>| {
        Asked::new(REGISTER, json!({"input": {"login": login, "password": password, "name": name}}))
    };
    let login = |n: usize| format!("bounds{n:0>26}");
    let rename = |name: &str| Asked::new(RENAME, json!({"name": name}));
    let change = |new: &str| Asked::new(PASSWORDS, json!({"old": PASSWORD, "new": new}));
    let (short, long) = ("p".repeat(7), "p".repeat(257));
    vec![
        Bound::value(
            "a login of 3 to 32",
            move |n| register(if n % 2 == 0 { login(n) } else { format!("{n:0>3}") }, PASSWORD, None),
            vec![
                register("bo".to_owned(), PASSWORD, None),
                register(format!("bounds{:0>27}", 0), PASSWORD, None),
                register("Bounds!".to_owned(), PASSWORD, None),
            ],
        ),
        Bound::value(
            "a password of 8 to 256",
            move |n| register(login(n), &"ß".repeat(if n % 2 == 0 { 256 } else { 8 }), None),
            vec![register("bounds".to_owned(), &short, None), register("bounds".to_owned(), &long, None)],
        ),
        Bound::value(
            "a name of 1 to 64 at the beginning",
            move |n| register(login(n), PASSWORD, Some("🐎".repeat(64))),
            vec![
                register("bounds".to_owned(), PASSWORD, Some(String::new())),
                register("bounds".to_owned(), PASSWORD, Some("n".repeat(65))),
            ],
        ),
        Bound::value(
            "a name of 1 to 64",
            move |_| rename(&"ü".repeat(64)),
            vec![rename(""), rename(&"n".repeat(65))],
        ),
        // Whoever changes it is signed out; what may be a new password is what may be a first one.
        Bound::value(
            "a new password of 8 to 256",
            |_| Asked::bare("mutation { __typename }"),
            vec![change(&short), change(&long)],
        ),
    ]
}

/// Reading: pages, searches, cursors, versions.
fn reads(place: &Place) -> Vec<Bound> {
    let of_dialog = |field: &str| format!("query($id: ID!, $n: Int) {{ dialog(id: $id) {{ {field} }} }}");
    let lists = [
        ("dialogs", "query($n: Int) { dialogs(first: $n) { nodes { id } } }".to_owned()),
        ("people", "query($n: Int) { users(search: \"an\", first: $n) { nodes { id } } }".to_owned()),
        ("counters", "query($n: Int) { unread { dialogs(first: $n) { unread } } }".to_owned()),
        ("participants", of_dialog("participants(first: $n) { nodes { id } }")),
        ("read states", of_dialog("readStates(first: $n) { readSeq }")),
        ("messages from the beginning", of_dialog("messages(first: $n) { nodes { id } }")),
        ("messages from the end", of_dialog("messages(last: $n) { nodes { id } }")),
    ];
    let mut bounds = Vec::new();
    for (name, document) in lists {
        let dialog = place.dialog.clone();
        let page = move |size: i64| Asked::new(document.clone(), json!({"id": dialog, "n": size}));
        let beyond = [0, 101, -1, i64::from(i32::MAX)].map(&page).into();
        bounds.push(Bound::value(name, move |n| page(if n % 2 == 0 { 100 } else { 1 }), beyond));
    }
    let search = |text: &str| {
        Asked::new("query($s: String!) { users(search: $s) { nodes { id } } }", json!({"s": text}))
    };
    let after = |cursor: &str| {
        let document = "query($after: String) { dialogs(after: $after) { nodes { id } } }";
        Asked::new(document, json!({"after": cursor}))
    };
    let at_least = |version: &str| {
        Asked::new("query($v: String) { unread(atLeast: $v) { total } }", json!({"v": version}))
    };
    let since = |version: &str| {
        Asked::new("subscription($v: String) { unread(since: $v) { total } }", json!({"v": version}))
    };
    let dialog = place.dialog.clone();
    let messages = move |version: &str| {
        let document = "subscription($id: ID!, $v: String) { messages(dialogId: $id, since: $v) { kind } }";
        Asked::new(document, json!({"id": dialog, "v": version}))
    };
    let (cursor, other, watched) = (place.cursor.clone(), place.cursor.to_uppercase(), messages.clone());
    bounds.extend([
        Bound::value(
            "a search of 2 to 32",
            move |n| search(&"a".repeat(if n % 2 == 0 { 32 } else { 2 })),
            vec![search("a"), search(&"a".repeat(33)), search("")],
        ),
        Bound::value(
            "a cursor of this list",
            move |_| after(&cursor),
            vec![after(""), after("!!!"), after(&other), after(&"A".repeat(257))],
        ),
        Bound::value(
            "a version",
            move |_| at_least("1-0"),
            vec![
                at_least("soon"),
                at_least(""),
                at_least("1"),
                at_least("9-9"),
                at_least("99999999999999999999-1"),
            ],
        ),
        Bound::value("a version to go on from", move |_| since("1-0"), vec![since("soon"), since("")]),
        Bound::value("a version of a dialog", move |_| watched("0"), vec![messages("soon"), messages("-1")]),
        Bound::value(
            "a message by one of its two names",
            |_| Asked::bare("{ message(id: \"x\") { id } }"),
            vec![
                Asked::bare("{ message { id } }"),
                Asked::bare("{ message(id: \"x\", transactionId: \"x\") { id } }"),
            ],
        ),
    ]);
    bounds
}

/// Groups of 2 to 1,000, made at once or joined later. People are put into the database, since a thousand passwords are slow.
async fn groups(place: &Place) -> Vec<Bound> {
    let auth = Db::open_file(&place.app.folder.path().join("auth.db")).await.unwrap();
    let ids: Vec<String> = (0..1_000).map(|_| uuid::Uuid::now_v7().to_string()).collect();
    let mut tx = auth.begin().await.unwrap();
    for (number, id) in ids.iter().enumerate() {
        let insert =
            "insert into account (id, login, name, name_lower, password_hash) values ($1, $2, 'x', 'x', 'x')";
        let id: uuid::Uuid = id.parse().unwrap();
        query(insert).bind(id).bind(format!("crowd{number}")).execute(&mut tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    let create =
        |ids: &[String]| Asked::new(CREATE, json!({"input": {"participantIds": ids, "title": "crowd"}}));
    let add = |dialog: &str, ids: &[String]| Asked::new(ADD, json!({"id": dialog, "u": ids}));
    let mut dialogs = Vec::new();
    for _ in 0..TRANSPORTS.len() {
        dialogs.push(place.ann.create_group(&[&place.bob], "growing").await);
    }
    let (others, more, own, full) =
        (ids[..999].to_vec(), ids[..998].to_vec(), place.ann.id.clone(), dialogs[0].clone());
    vec![
        Bound::value(
            "a dialog of 2 to 1,000",
            move |_| create(&others),
            vec![create(&ids), create(&[]), create(&[own])],
        ),
        Bound::value(
            "a dialog that grows to 1,000",
            move |n| add(&dialogs[n % TRANSPORTS.len()], &more),
            vec![
                add(&full, &ids[..999]),
                add(&full, &ids),
                add(&full, &[]),
                add(&full, &["nonsense".to_owned()]),
            ],
        ),
    ]
}

#[tokio::test]
async fn the_bounds_of_values_hold_on_every_transport() {
    let place = Place::new().await;
    let bounds = [sends(&place), people(), reads(&place), groups(&place).await];
    let mut cells = 0;
    for bounds in &bounds {
        cells += place.walk(bounds).await;
    }
    println!("bounds of values: {cells} cells tried");
}

#[tokio::test]
async fn an_operation_has_five_seconds_on_every_transport() {
    let place = Place::new().await;
    let auth = Db::open_file(&place.app.folder.path().join("auth.db")).await.unwrap();
    // Whoever wants to write now waits.
    let held = auth.begin().await.unwrap();
    let asked = Asked::bare("mutation { updateMe(name: \"late\") { name } }");
    let mut cells = 0;
    for transport in TRANSPORTS.iter().filter(|transport| transport.carries(&asked)) {
        let begun = Instant::now();
        let told = (transport.ask)(&place.caller, &asked).await;
        assert_eq!(told.code(), "DEADLINE_EXCEEDED", "{}: {told:?}", transport.name);
        let took = begun.elapsed();
        assert!((4..6).contains(&took.as_secs()), "{}: {took:?}", transport.name);
        cells += 1;
    }
    held.rollback().await.unwrap();
    println!("bounds of time: {cells} cells tried");
}
