//! Who may do what, tried: every root field of the schema for every kind of caller on every transport. The schema says which
//! fields there are; one without a row fails, and so does a row without a field.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use testkit::eventually;

use crate::{
    app::App,
    person::Person,
    rights_table::{EVERYONE, Outcome, Row, Scene, TABLE, Who},
    transport::{Asked, Caller, TRANSPORTS, Told, Transport},
};

/// Fields that are about the schema, and need no sign-in.
const OF_THE_SCHEMA: [&str; 1] = ["Query._service"];

/// Cells that are tried at once: most of the time of each is waiting for the counters.
const SIDE_BY_SIDE: usize = 6;

/// Everyone, and what they have to do with each other.
struct World {
    app: App,
    owner: Person,
    participant: Person,
    left: Person,
    stranger: Person,
    /// Whom everybody else may talk with.
    somebody: Person,
    logged_out: Person,
    scenes: AtomicUsize,
}

impl World {
    async fn new() -> Self {
        let app = App::start().await;
        let owner = Person::register(&app, "ann").await;
        let participant = Person::register(&app, "bob").await;
        let logged_out = Person::login(&app, "bob").await;
        logged_out.data("mutation { logout }", json!({})).await;
        let (left, stranger) =
            (Person::register(&app, "cleo").await, Person::register(&app, "mallory").await);
        let somebody = Person::register(&app, "dora").await;
        Self { app, owner, participant, left, stranger, somebody, logged_out, scenes: AtomicUsize::new(0) }
    }

    fn caller(&self, who: Who) -> Caller {
        let token = match who {
            Who::Owner => Some(&self.owner.token),
            Who::Participant => Some(&self.participant.token),
            Who::Left => Some(&self.left.token),
            Who::Stranger => Some(&self.stranger.token),
            Who::LoggedOut => Some(&self.logged_out.token),
            Who::Anonymous | Who::BadToken => None,
        };
        let token =
            if who == Who::BadToken { Some(format!("{}x", self.owner.token)) } else { token.cloned() };
        Caller { url: self.app.url.clone(), http: self.owner.http.clone(), token }
    }

    /// Never given twice.
    fn number(&self) -> usize {
        self.scenes.fetch_add(1, Relaxed) + 1
    }

    /// Somebody new in this place, who may lose the session.
    async fn newcomer(&self, who: Who) -> Caller {
        let person = Person::register(&self.app, &format!("newcomer{}", self.number())).await;
        let signed_in = !matches!(who, Who::LoggedOut | Who::Anonymous | Who::BadToken);
        if signed_in { Caller { token: Some(person.token), ..self.caller(who) } } else { self.caller(who) }
    }

    /// A dialog of the owner, the participant and the one who has left, with a message of the owner's; the counters know.
    async fn scene(&self, row: &Row) -> Scene {
        let dialog = self.owner.create_group(&[&self.participant, &self.left], "three").await;
        let message = self.owner.send(&dialog, "words").await["id"].as_str().unwrap().to_owned();
        let counted = "query($d: ID!) { dialogUnread(dialogId: $d) { lastSeq } }";
        let known =
            async |person: &Person| person.data(counted, json!({"d": dialog})).await["dialogUnread"].clone();
        let (owner, left) = (&self.owner, &self.left);
        eventually("the counters know the message", || async { known(owner).await["lastSeq"] == 1 }).await;
        let leave = "mutation($d: ID!) { leaveDialog(dialogId: $d) }";
        self.left.data(leave, json!({"d": dialog})).await;
        eventually("the counters know who has left", || async { known(left).await.is_null() }).await;
        let refreshes = row.field == "Mutation.refreshSession";
        let session =
            if refreshes { Person::login(&self.app, "mallory").await } else { self.stranger.clone() };
        let refresh_token = session.refresh_token;
        Scene { dialog, message, person: self.somebody.id.clone(), refresh_token, number: self.number() }
    }

    /// A scene in which nothing that is named is there.
    fn absent(&self, scene: &Scene) -> Scene {
        let id = || uuid::Uuid::now_v7().to_string();
        Scene {
            dialog: id(),
            message: id(),
            person: scene.person.clone(),
            refresh_token: String::new(),
            number: 0,
        }
    }
}

#[tokio::test]
async fn every_field_of_the_schema_is_open_to_those_of_its_row_and_to_nobody_else() {
    let world = World::new().await;
    let mut cells = Vec::new();
    for row in &TABLE {
        for transport in TRANSPORTS.iter().filter(|transport| transport.carries(&Asked::bare(row.document))) {
            cells.extend(
                EVERYONE.into_iter().zip(row.expected).map(|(who, expected)| (row, transport, who, expected)),
            );
        }
    }
    let refused = cells.iter().filter(|(.., expected)| *expected != Outcome::Data).count();
    // What changes nothing is tried on one scene.
    let still = &world.scene(&TABLE[0]).await;
    let tried = stream::iter(&cells)
        .map(|(row, transport, who, expected)| cell(&world, still, row, transport, *who, *expected));
    tried.buffer_unordered(SIDE_BY_SIDE).collect::<Vec<_>>().await;
    let cells = cells.len();
    println!("authorisation: {cells} cells tried, {refused} refused");
}

async fn cell(world: &World, still: &Scene, row: &Row, transport: &Transport, who: Who, expected: Outcome) {
    let scene = if row.document.starts_with("mutation") { world.scene(row).await } else { still.clone() };
    let caller = if row.ends_sessions { world.newcomer(who).await } else { world.caller(who) };
    let ask = async |scene: &Scene| {
        (transport.ask)(&caller, &Asked::new(row.document, (row.variables)(scene))).await
    };
    let told = ask(&scene).await;
    let place = format!("{} for {who:?} by {}: {told:?}", row.field, transport.name);
    assert_eq!(outcome(row, &told), Some(expected), "{place}");
    if matches!(expected, Outcome::Null | Outcome::NotFound) {
        let absent = ask(&world.absent(&scene)).await;
        assert_eq!(
            (absent.status, &absent.answer),
            (told.status, &told.answer),
            "absent and forbidden: {place}"
        );
    }
    assert!(expected == Outcome::Data || !told.answer.to_string().contains("words"), "{place}");
}

/// What became of it, where it is one of the outcomes of the table.
fn outcome(row: &Row, told: &Told) -> Option<Outcome> {
    let field = row.field.split('.').next_back().unwrap();
    let value = &told.answer["data"][field];
    let nothing = value.is_null() || value.as_array().is_some_and(|list| list.iter().all(Value::is_null));
    let refused_token = told.status == Some(401) || told.closed == Some(4403);
    match (told.code(), nothing) {
        // The socket may be closed before it can say that its session is over.
        ("none", true) if row.ends_sessions && told.closed == Some(4401) => Some(Outcome::Data),
        ("UNAUTHENTICATED", true) if told.status == Some(401) => Some(Outcome::Token),
        ("none", true) if refused_token => Some(Outcome::Token),
        ("none", true) if told.answer.get("data").is_some() => Some(Outcome::Null),
        ("none", false) => Some(Outcome::Data),
        ("NOT_FOUND", true) => Some(Outcome::NotFound),
        ("UNAUTHENTICATED", true) => Some(Outcome::SignIn),
        _ => None,
    }
}

#[tokio::test]
async fn every_field_of_the_schema_has_a_row_and_every_row_a_field() {
    let app = App::start().await;
    let caller = Caller { url: app.url.clone(), http: reqwest::Client::new(), token: None };
    let roots = "{ __schema { types { kind name fields { name } } queryType { name } mutationType { name } subscriptionType { name } } }";
    let told = (TRANSPORTS[0].ask)(&caller, &Asked::bare(roots)).await;
    let schema = &told.answer["data"]["__schema"];
    let mut fields = BTreeSet::new();
    for root in ["queryType", "mutationType", "subscriptionType"] {
        let name = schema[root]["name"].as_str().unwrap();
        let of_root = schema["types"].as_array().unwrap().iter().find(|kind| kind["name"] == name).unwrap();
        let names = of_root["fields"].as_array().unwrap().iter();
        fields.extend(names.map(|field| format!("{name}.{}", field["name"].as_str().unwrap())));
    }
    // Those of federation are in the schema whether or not introspection shows them.
    fields.extend(["Query._entities", "Query._service"].map(str::to_owned));
    let rows: BTreeSet<_> =
        TABLE.iter().map(|row| row.field).chain(OF_THE_SCHEMA).map(str::to_owned).collect();
    assert_eq!(rows.difference(&fields).collect::<Vec<_>>(), Vec::<&String>::new(), "rows without a field");
    assert_eq!(fields.difference(&rows).collect::<Vec<_>>(), Vec::<&String>::new(), "fields without a row");
}
