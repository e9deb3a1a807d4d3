//! Limits of documents: size, depth and cost, each with a document at the limit and one beyond it.

use serde_json::json;

use crate::{
    operation_limits::{Limit, times},
    transport::Operation,
};

/// Returns the limits of a document's size, depth and cost.
pub fn document_limits() -> Vec<Limit> {
    let mut limits = sizes();
    limits.extend(costs());
    limits
}

fn sizes() -> Vec<Limit> {
    let numbered = |count: usize| (0..count).map(|n| format!("a{n}: id")).collect::<Vec<_>>().join(" ");
    // The document has 24 tokens besides the list.
    let tokens = |count: usize| {
        let list = times(count - 24, "1");
        entity_with(&format!("list: [{list}]"))
    };
    let brackets = |count: usize| {
        let open = "[".repeat(count - 4);
        let close = "]".repeat(count - 4);
        entity_with(&format!("list: {open}{close}"))
    };
    let entities = |count: usize| {
        let list = times(count, "{ __typename: \"User\" id: \"x\" }");
        format!("{{ _entities(representations: [{list}]) {{ __typename }} }}")
    };
    let aliased = |bytes: usize| format!("{{ me {{ {}: id }} }}", "a".repeat(bytes));
    let directives = |count: usize| {
        format!("{{ me {{ {} name @include(if: true) }} }}", times(count - 1, "id @include(if: true)"))
    };
    let nested = |count: usize| format!("{{ me {}{{ id }}{} }}", "{ ... ".repeat(count), " }".repeat(count));
    let introspection = |depth: usize| deep("__type(name: \"User\")", "ofType", depth - 2, "{ name }");
    vec![
        Limit::document("15,000 tokens", tokens(15_000), tokens(15_001)),
        Limit::document("64 brackets", brackets(64), brackets(65)),
        // No path through the schema is this deep, so validation rejects the document that passes the limit.
        Limit::document("depth 12", deep("me", "id", 10, "{ id }"), deep("me", "id", 11, "{ id }"))
            .code_within("GRAPHQL_VALIDATION_FAILED"),
        Limit::document("depth 20 of introspection", introspection(20), introspection(21)),
        Limit::document("2 nested lists of introspection", introspected(2), introspected(3)),
        Limit::document(
            "30 aliases",
            format!("{{ me {{ {} }} }}", numbered(30)),
            format!("{{ me {{ {} }} }}", numbered(31)),
        ),
        Limit::document("an alias of 128 bytes", aliased(128), aliased(129)),
        Limit::document("50 directives", directives(50), directives(51)),
        Limit::document(
            "20 root fields",
            format!("{{ {} }}", times(20, "__typename")),
            format!("{{ {} }}", times(21, "__typename")),
        ),
        Limit::document(
            "50 repetitions",
            format!("{{ me {{ {} }} }}", times(50, "id")),
            format!("{{ me {{ {} }} }}", times(51, "id")),
        ),
        Limit::document("50 nested fragments", nested(50), nested(51)),
        Limit::document("100 entities", entities(100), entities(101)),
        {
            let list = |count: usize| json!({"r": vec![json!({"__typename": "User", "id": "x"}); count]});
            let document = "query($r: [_Any!]!) { _entities(representations: $r) { __typename } }";
            let within = move |_| Operation::new(document, list(100));
            Limit::new(
                "100 entities in a variable",
                "LIMIT_EXCEEDED",
                within,
                vec![Operation::new(document, list(101))],
            )
        },
    ]
}

fn costs() -> Vec<Limit> {
    let texts = |messages: usize| {
        format!(
            "{{ dialogs(first: 100) {{ nodes {{ messages(first: {messages}) {{ nodes {{ text }} }} }} }} }}"
        )
    };
    let costs = |messages: usize, users: &str| {
        let list = format!("messages(first: {messages}) {{ nodes {{ seq }} }}");
        format!("{{ dialogs(first: 100) {{ nodes {{ {list} }} }} {users} }}")
    };
    vec![
        Limit::document(
            "cost 20,000",
            costs(98, "users(search: \"an\", first: 99) { nodes { id } }"),
            costs(99, ""),
        ),
        Limit::document("the cost of the texts of 100 dialogs", texts(4), texts(5)),
    ]
}

/// Returns a document with this many nested fields below the first.
fn deep(first: &str, field: &str, count: usize, last: &str) -> String {
    format!("{{ {first} {} {last} {} }}", format!("{{ {field} ").repeat(count), "}".repeat(count))
}

/// Returns a query for an entity whose representation has another field.
fn entity_with(field: &str) -> String {
    format!(
        "{{ _entities(representations: [{{ __typename: \"User\" id: \"x\" {field} }}]) {{ __typename }} }}"
    )
}

fn introspected(lists: usize) -> String {
    format!(
        "{{ __type(name: \"User\") {{ {} name {} }} }}",
        "fields { type { ".repeat(lists),
        "} }".repeat(lists)
    )
}
