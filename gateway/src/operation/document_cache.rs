//! Document cache: turns the text of a document into a validated operation within all limits, and keeps
//! it for the next request with the same text. The cache is bounded and shared by all clients.

use std::{fmt, sync::Arc};

use async_graphql::{Name, ServerError, Variables};
use async_graphql_parser::{
    Error as ParserError, parse_query,
    types::{DocumentOperations, ExecutableDocument, OperationDefinition, OperationType},
};
use moka::future::Cache;

use super::{
    query_limits,
    response_shape::{ResponseShape, SchemaTypes},
    token_limits,
    validation::Validator,
    variables,
};
use crate::{
    error::{Code, Error, Rejection},
    schema,
};

/// Capacity of the cache: total size of the document texts, in bytes. A parsed document takes up to
/// fifty times its text, so this is at most 100 MB of memory.
const CAPACITY_BYTES: u64 = 2 << 20;
/// Fixed weight of an entry beside its text, in bytes, so that the number of short documents is bounded too.
const ENTRY_BYTES: usize = 512;

/// Cache of validated operations. Cheap to clone; clones share their entries.
#[derive(Clone)]
pub struct DocumentCache {
    validator: Validator,
    types: Arc<SchemaTypes>,
    introspection: bool,
    operations: Cache<Key, Arc<ValidatedOperation>>,
}

/// Text of a document and the name of one of its operations.
type Key = (Arc<str>, Option<String>);

/// Validated operation: one operation of a document with the fragments that it uses.
pub struct ValidatedOperation {
    /// Document to execute: this operation only.
    pub document: ExecutableDocument,
    /// Shape of the operation's responses.
    pub shape: Arc<ResponseShape>,
    /// Kind of the operation: query, mutation or subscription.
    pub kind: OperationType,
    /// Most entities of one `_entities` field.
    entities: usize,
    /// Variables that hold lists of entities.
    entity_lists: Vec<Name>,
    /// Cost of the operation, `None` if it depends on variables.
    cost: Option<usize>,
}

/// Validated operation with the variables and the cost of one request.
pub struct PreparedOperation {
    /// The validated operation.
    pub operation: Arc<ValidatedOperation>,
    /// Values of the declared variables.
    pub variables: Variables,
    /// Maximum cost of the request.
    pub cost: usize,
}

impl fmt::Debug for ValidatedOperation {
    /// Omits the document, whose literals may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidatedOperation")
            .field("kind", &self.kind)
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PreparedOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedOperation")
            .field("operation", &self.operation)
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

impl DocumentCache {
    /// Creates an empty cache. `introspection` allows `__schema` and "did you mean" hints.
    pub fn new(introspection: bool) -> Self {
        let weigher = |key: &Key, _: &Arc<ValidatedOperation>| {
            u32::try_from(key.0.len() + ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        Self {
            validator: Validator::new(introspection),
            types: Arc::new(SchemaTypes::parse(&schema::build().finish().sdl())),
            introspection,
            operations: Cache::builder().max_capacity(CAPACITY_BYTES).weigher(weigher).build(),
        }
    }

    /// Returns the operation of a document, checked against every limit and the schema.
    ///
    /// # Errors
    /// GRAPHQL_PARSE_FAILED, GRAPHQL_VALIDATION_FAILED, LIMIT_EXCEEDED; BAD_REQUEST if the document has
    /// no operation of that name.
    pub async fn prepare(
        &self,
        text: Arc<str>,
        name: Option<String>,
        given: &Variables,
    ) -> Result<PreparedOperation, Rejection> {
        let key = (text, name);
        if let Some(operation) = self.operations.get(&key).await {
            let variables = variables::complete(operation.definition(), given)?;
            query_limits::check_entities(&operation.entity_lists, &variables)?;
            let cost = match operation.cost {
                Some(cost) => cost,
                None => self.cost(&operation.document, operation.entities, &variables)?,
            };
            return Ok(PreparedOperation { operation, variables, cost });
        }
        let (operation, variables, cost) = self.validate(&key.0, key.1.as_deref(), given)?;
        let operation = Arc::new(operation);
        self.operations.insert(key, operation.clone()).await;
        Ok(PreparedOperation { operation, variables, cost })
    }

    fn validate(
        &self,
        text: &str,
        name: Option<&str>,
        given: &Variables,
    ) -> Result<(ValidatedOperation, Variables, usize), Rejection> {
        token_limits::check(text)?;
        metrics::counter!("gateway_documents_parsed_total").increment(1);
        let whole = parse_query(text).map_err(parse_rejection)?;
        let measure = query_limits::check(&whole, name, self.introspection)?;
        let mut document = select(&whole, name)?;
        document.fragments.retain(|fragment, _| measure.fragments.contains(fragment));
        let definition = only(&document);
        let variables = variables::complete(definition, given)?;
        query_limits::check_entities(&measure.entity_lists, &variables)?;
        if whole.operations.iter().count() > 1 {
            // The other operations must be valid too, but their cost does not count.
            self.validator.validate(whole.clone(), &variables).map_err(Rejection::invalid)?;
        }
        let entities = measure.entities;
        let constant = definition.variable_definitions.is_empty();
        let cost = self.cost(&document, entities, &variables)?;
        let shape = ResponseShape::new(&self.types, &document, definition);
        let kind = definition.ty;
        let entity_lists = measure.entity_lists;
        let constant = constant.then_some(cost);
        Ok((
            ValidatedOperation {
                document,
                shape: Arc::new(shape),
                kind,
                entities,
                entity_lists,
                cost: constant,
            },
            variables,
            cost,
        ))
    }

    /// Validates a document and returns its cost.
    fn cost(
        &self,
        document: &ExecutableDocument,
        entities: usize,
        variables: &Variables,
    ) -> Result<usize, Rejection> {
        let cost_per_entity =
            self.validator.validate(document.clone(), variables).map_err(Rejection::invalid)?;
        let cost = cost_per_entity.saturating_mul(entities);
        check_cost(cost)?;
        Ok(cost)
    }
}

impl ValidatedOperation {
    fn definition(&self) -> &OperationDefinition {
        only(&self.document)
    }
}

/// Checks the cost of one request: that of all its operations together.
///
/// # Errors
/// LIMIT_EXCEEDED.
pub fn check_cost(cost: usize) -> Result<(), Error> {
    if cost <= query_limits::COMPLEXITY_MAX {
        return Ok(());
    }
    let message = format!(
        "the request costs {cost}, at most {} is allowed: request smaller pages",
        query_limits::COMPLEXITY_MAX
    );
    Err(Error::new(Code::LimitExceeded, message))
}

/// Returns a document with only the named operation, or the only operation if no name is given.
fn select(whole: &ExecutableDocument, name: Option<&str>) -> Result<ExecutableDocument, Error> {
    let bad = |message: String| Error::new(Code::BadRequest, message);
    let operations = match (&whole.operations, name) {
        (DocumentOperations::Single(_), None) => whole.operations.clone(),
        (DocumentOperations::Multiple(named), None) if named.len() == 1 => whole.operations.clone(),
        (DocumentOperations::Multiple(_), None) => {
            return Err(bad(
                "the document has several operations: choose one with `operationName`".to_owned()
            ));
        }
        (DocumentOperations::Multiple(named), Some(name)) if named.contains_key(name) => {
            let selected = named.iter().filter(|(key, _)| key.as_str() == name);
            DocumentOperations::Multiple(selected.map(|(key, value)| (key.clone(), value.clone())).collect())
        }
        (_, Some(name)) => {
            let shown: String = name.chars().take(64).collect();
            return Err(bad(format!("the document has no operation \"{shown}\"")));
        }
    };
    Ok(ExecutableDocument { operations, fragments: whole.fragments.clone() })
}

/// Returns the operation of a document with exactly one.
fn only(document: &ExecutableDocument) -> &OperationDefinition {
    let first = document.operations.iter().next();
    &first.expect("a document of one operation").1.node
}

/// Converts a parser's error. The parser's excerpt of the document is left out of the message.
fn parse_rejection(error: ParserError) -> Rejection {
    let (code, message) = match &error {
        ParserError::Syntax { message, .. } => {
            let reason = message.rsplit_once("= ").map_or("not a document", |(_, reason)| reason);
            (Code::GraphqlParseFailed, format!("syntax error: {reason}"))
        }
        ParserError::RecursionLimitExceeded | ParserError::MissingOperation => {
            (Code::GraphqlParseFailed, error.to_string())
        }
        _ => (Code::GraphqlValidationFailed, error.to_string()),
    };
    let mut shown = ServerError::new(message, None);
    shown.locations = error.positions().collect();
    Rejection::coded(code, vec![shown])
}

#[cfg(test)]
mod tests {
    use async_graphql::{Value, value};

    use super::*;

    async fn prepared(
        documents: &DocumentCache,
        text: &str,
        name: Option<&str>,
        variables: Value,
    ) -> Result<PreparedOperation, Rejection> {
        documents.prepare(text.into(), name.map(Into::into), &Variables::from_value(variables)).await
    }

    async fn code(text: &str, name: Option<&str>, variables: Value) -> Code {
        let documents = DocumentCache::new(true);
        let first = prepared(&documents, text, name, variables.clone()).await.expect_err(text);
        let again = prepared(&documents, text, name, variables).await.expect_err(text);
        assert_eq!(first, again, "a rejection is repeatable");
        first.code()
    }

    #[tokio::test]
    async fn an_operation_is_selected_from_its_document() {
        let text = "query A { me { ...F } } query B($id: ID!) { user(id: $id) { ...F login } }
            fragment F on User { id } mutation C { logout }";
        let documents = DocumentCache::new(true);
        for _ in 0..2 {
            let a = prepared(&documents, text, Some("A"), value!({})).await.expect("A");
            assert_eq!((a.operation.kind, a.cost, a.variables.len()), (OperationType::Query, 2, 0));
            let b = prepared(&documents, text, Some("B"), value!({ "id": "x" })).await.expect("B");
            assert_eq!((b.cost, b.operation.document.fragments.len()), (3, 1));
            let c = prepared(&documents, text, Some("C"), value!({})).await.expect("C");
            assert_eq!(
                (c.operation.kind, c.operation.document.fragments.len()),
                (OperationType::Mutation, 0)
            );
        }
        assert_eq!(code(text, None, value!({})).await, Code::BadRequest);
        assert_eq!(code(text, Some("D"), value!({})).await, Code::BadRequest);
        assert_eq!(code("{ me { id } }", Some("A"), value!({})).await, Code::BadRequest);
        let broken = "query A { me { id } } query B { nonsense }";
        assert_eq!(code(broken, Some("A"), value!({})).await, Code::GraphqlValidationFailed);
    }

    #[tokio::test]
    async fn variables_are_checked_for_each_request() {
        let documents = DocumentCache::new(true);
        let text = "query($id: ID!, $first: Int) {
            dialog(id: $id) { participants(first: $first) { nodes { id } } } }";
        let cost = |first: Value| {
            let documents = &documents;
            async move {
                prepared(documents, text, None, value!({ "id": "x", "first": first }))
                    .await
                    .map(|ready| ready.cost)
            }
        };
        assert_eq!(cost(value!(100)).await, Ok(202));
        assert_eq!(cost(value!(1)).await, Ok(4));
        assert_eq!(cost(Value::Null).await, Ok(42), "the default page size is 20");
        let default = prepared(&documents, text, None, value!({ "id": "x" })).await;
        assert_eq!(default.map(|ready| ready.cost), Ok(42));
        for bad in [
            value!({}),
            value!({ "id": null }),
            value!({ "id": [1] }),
            value!({ "id": "x", "first": "many" }),
        ] {
            let rejection = prepared(&documents, text, None, bad.clone()).await.expect_err("rejected");
            assert_eq!(rejection.code(), Code::GraphqlValidationFailed, "{bad}");
        }
    }

    #[tokio::test]
    async fn the_limit_on_cost_passes_at_its_maximum() {
        let page = |fields: usize| {
            let fields: String = (0..fields).map(|_| " id").collect();
            format!(
                "{{ dialogs(first: 100) {{ nodes {{
                    messages(first: 40) {{ nodes {{ seq {fields} }} }} }} }} }}"
            )
        };
        let documents = DocumentCache::new(true);
        let ready = prepared(&documents, &page(2), None, value!({})).await.expect("within");
        assert_eq!(ready.cost, 1 + 100 * (1 + 1 + 40 * 4));
        assert_eq!(code(&page(4), None, value!({})).await, Code::LimitExceeded);
        assert_eq!(check_cost(query_limits::COMPLEXITY_MAX), Ok(()));
        assert_eq!(
            check_cost(query_limits::COMPLEXITY_MAX + 1).map_err(|error| error.code()),
            Err(Code::LimitExceeded)
        );
    }

    /// A unit of cost is about a kilobyte of answer.
    #[tokio::test]
    async fn fields_cost_by_their_largest_size_and_common_queries_pass() {
        let documents = DocumentCache::new(true);
        let cost = async |text: &str| {
            let prepared = prepared(&documents, text, None, value!({})).await;
            prepared.map(|ready| ready.cost).map_err(|rejected| rejected.code())
        };
        let everything = schema::FULL_DIALOG_PAGE.replace("FIRST", "50");
        assert_eq!(cost(&everything).await, Ok(18_101));
        let plain = "subscription { unread { kind version total truncated changed { dialogId unread } } }";
        assert_eq!(cost(plain).await, Ok(2_006));
        let named = "subscription { unread { total changed {
            dialogId unread readSeq lastSeq dialog { title lastMessage { seq } } } } }";
        assert_eq!(cost(named).await, Ok(1 + 1 + 1 + 1_000 * 8));
        assert_eq!(cost("{ dialogs(first: 100) { nodes { participantIds } } }").await, Ok(1 + 100 * 41));
        let texts = |dialogs: usize| {
            format!(
                "{{ dialogs(first: {dialogs}) {{ nodes {{
                    messages(first: 100) {{ nodes {{ text }} }} }} }} }}"
            )
        };
        assert_eq!(cost(&texts(11)).await, Ok(1 + 11 * (1 + 1 + 100 * 17)));
        assert_eq!(cost(&texts(12)).await, Err(Code::LimitExceeded), "1,200 texts of 16 kB");
    }

    #[tokio::test]
    async fn nested_lists_never_overflow() {
        let deep = "{ dialogs(first: 100) { nodes { messages(first: 100) { nodes { sender { id } } }
            a: messages(last: 2147483647) { nodes { id } } participants(first: 100) { nodes { id } } } } }";
        assert_eq!(code(deep, None, value!({})).await, Code::LimitExceeded);
        let entities = "query($r: [_Any!]!) { _entities(representations: $r) {
            ... on Dialog { messages(first: 100) { nodes { id seq } } } } }";
        assert_eq!(code(entities, None, value!({ "r": [] })).await, Code::LimitExceeded);
        let entities = "query($r: [_Any!]!) { _entities(representations: $r) { __typename } }";
        let many = |count: usize| value!({ "r": vec![value!({ "__typename": "User", "id": "x" }); count] });
        assert_eq!(code(entities, None, many(query_limits::ENTITIES_MAX + 1)).await, Code::LimitExceeded);
        assert!(
            prepared(&DocumentCache::new(true), entities, None, many(query_limits::ENTITIES_MAX))
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn password_checks_cost_a_thousand_because_hashing_is_slow() {
        let logins = |count: usize| {
            let login =
                |n| format!("a{n}: login(input: {{ login: \"a\", password: \"b\" }}) {{ accessToken }} ");
            format!("mutation {{ {} }}", (0..count).map(login).collect::<String>())
        };
        let ready = prepared(&DocumentCache::new(true), &logins(19), None, value!({})).await.expect("within");
        assert_eq!(ready.cost, 19 * 1_001);
        assert_eq!(code(&logins(20), None, value!({})).await, Code::LimitExceeded);
    }

    #[tokio::test]
    async fn a_syntax_error_has_location_and_message_without_an_excerpt() {
        let rejection =
            prepared(&DocumentCache::new(true), "{ me { id }", None, value!({})).await.expect_err("rejected");
        assert_eq!(rejection.code(), Code::GraphqlParseFailed);
        let shown = &rejection.errors()[0];
        assert!(
            shown.message.starts_with("syntax error: expected") && !shown.message.contains('\n'),
            "{shown}"
        );
        assert_eq!((shown.locations[0].line, shown.locations[0].column), (1, 12));
        for text in ["", "#", "fragment F on User { id }", "type A { b: Int }", "\0", "{ \"", "🏃"] {
            assert_eq!(code(text, None, value!({})).await, Code::GraphqlParseFailed, "{text:?}");
        }
    }
    #[tokio::test]
    async fn the_cache_is_bounded() {
        let documents = DocumentCache::new(true);
        for number in 0..60 {
            let text = format!("{{ me {{ id }} }} # {number} {}", "x".repeat(100_000));
            prepared(&documents, &text, None, value!({})).await.expect("valid");
            documents.operations.run_pending_tasks().await;
            assert!(documents.operations.weighted_size() <= CAPACITY_BYTES);
        }
        assert!(documents.operations.entry_count() > 0, "there is room for some");
    }
}
