//! DocumentCache: from text to an operation that is within all bounds and valid. What has been found good once is kept by its
//! text, bounded, for everyone who sends it again.

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

/// How much text is kept, in bytes; what is made of it takes up to fifty times as much.
const KEPT_BYTES: u64 = 2 << 20;
/// What a document weighs beside its text.
const WEIGHT_BYTES: usize = 512;

/// The documents that clients send.
#[derive(Clone)]
pub struct DocumentCache {
    validator: Validator,
    types: Arc<SchemaTypes>,
    introspection: bool,
    kept: Cache<Key, Arc<ValidatedOperation>>,
}

type Key = (Arc<str>, Option<String>);

/// One operation of a document, alone with the fragments that it reaches.
pub struct ValidatedOperation {
    /// What is executed.
    pub document: ExecutableDocument,
    /// What its answers look like.
    pub shape: Arc<ResponseShape>,
    /// Query, mutation or subscription.
    pub kind: OperationType,
    /// How many entities it asks for at once.
    entities: usize,
    /// The variables that hold lists of them.
    entity_lists: Vec<Name>,
    /// What it costs, where that does not depend on variables.
    cost: Option<usize>,
}

/// An operation with the variables and the cost of one request.
pub struct PreparedOperation {
    /// Which.
    pub operation: Arc<ValidatedOperation>,
    /// Those that it declares.
    pub variables: Variables,
    /// What it costs at most.
    pub cost: usize,
}

impl fmt::Debug for ValidatedOperation {
    /// A document may hold what nobody else may see.
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
    /// None yet. Introspection lets through `__schema`, and suggestions with it.
    pub fn new(introspection: bool) -> Self {
        let weigher = |key: &Key, _: &Arc<ValidatedOperation>| {
            u32::try_from(key.0.len() + WEIGHT_BYTES).unwrap_or(u32::MAX)
        };
        Self {
            validator: Validator::new(introspection),
            types: Arc::new(SchemaTypes::read(&schema::build().finish().sdl())),
            introspection,
            kept: Cache::builder().max_capacity(KEPT_BYTES).weigher(weigher).build(),
        }
    }

    /// Checks an operation against every bound and the schema.
    ///
    /// # Errors
    /// GRAPHQL_PARSE_FAILED, GRAPHQL_VALIDATION_FAILED, LIMIT_EXCEEDED; BAD_REQUEST where no operation of that name is there.
    pub async fn find(
        &self,
        text: Arc<str>,
        name: Option<String>,
        given: &Variables,
    ) -> Result<PreparedOperation, Rejection> {
        let key = (text, name);
        if let Some(operation) = self.kept.get(&key).await {
            let variables = variables::complete(operation.definition(), given)?;
            query_limits::entities(&operation.entity_lists, &variables)?;
            let cost = match operation.cost {
                Some(cost) => cost,
                None => self.cost(&operation.document, operation.entities, &variables)?,
            };
            return Ok(PreparedOperation { operation, variables, cost });
        }
        let (operation, variables, cost) = self.read(&key.0, key.1.as_deref(), given)?;
        let operation = Arc::new(operation);
        self.kept.insert(key, operation.clone()).await;
        Ok(PreparedOperation { operation, variables, cost })
    }

    fn read(
        &self,
        text: &str,
        name: Option<&str>,
        given: &Variables,
    ) -> Result<(ValidatedOperation, Variables, usize), Rejection> {
        token_limits::check(text)?;
        metrics::counter!("gateway_documents_parsed_total").increment(1);
        let whole = parse_query(text).map_err(unparsed)?;
        let measure = query_limits::check(&whole, name, self.introspection)?;
        let mut document = select(&whole, name)?;
        document.fragments.retain(|fragment, _| measure.fragments.contains(fragment));
        let definition = only(&document);
        let variables = variables::complete(definition, given)?;
        query_limits::entities(&measure.entity_lists, &variables)?;
        if whole.operations.iter().count() > 1 {
            // The others must be valid too, but theirs is not this one's cost.
            self.validator.validate(whole.clone(), &variables).map_err(Rejection::invalid)?;
        }
        let (entities, constant) = (measure.entities, definition.variable_definitions.is_empty());
        let cost = self.cost(&document, entities, &variables)?;
        let (shape, kind) = (ResponseShape::of(&self.types, &document, definition), definition.ty);
        let (entity_lists, constant) = (measure.entity_lists, constant.then_some(cost));
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

    /// Validates, and answers what the operation costs.
    fn cost(
        &self,
        document: &ExecutableDocument,
        entities: usize,
        variables: &Variables,
    ) -> Result<usize, Rejection> {
        let once = self.validator.validate(document.clone(), variables).map_err(Rejection::invalid)?;
        let cost = once.saturating_mul(entities);
        affordable(cost)?;
        Ok(cost)
    }
}

impl ValidatedOperation {
    fn definition(&self) -> &OperationDefinition {
        only(&self.document)
    }
}

/// Checks what one request, all its operations together, costs.
///
/// # Errors
/// LIMIT_EXCEEDED.
pub fn affordable(cost: usize) -> Result<(), Error> {
    if cost <= query_limits::COMPLEXITY_MAX {
        return Ok(());
    }
    let message = format!(
        "the request costs {cost}, at most {} is allowed: ask for smaller pages",
        query_limits::COMPLEXITY_MAX
    );
    Err(Error::new(Code::LimitExceeded, message))
}

/// The document with this operation alone.
fn select(whole: &ExecutableDocument, name: Option<&str>) -> Result<ExecutableDocument, Error> {
    let bad = |message: String| Error::new(Code::BadRequest, message);
    let operations = match (&whole.operations, name) {
        (DocumentOperations::Single(_), None) => whole.operations.clone(),
        (DocumentOperations::Multiple(named), None) if named.len() == 1 => whole.operations.clone(),
        (DocumentOperations::Multiple(_), None) => {
            return Err(
                bad("the document has several operations: say which with `operationName`".to_owned()),
            );
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

/// The operation of a document that has one.
fn only(document: &ExecutableDocument) -> &OperationDefinition {
    let first = document.operations.iter().next();
    &first.expect("a document of one operation").1.node
}

/// What the parser says, without its drawing of the document.
fn unparsed(error: ParserError) -> Rejection {
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

    async fn found(
        documents: &DocumentCache,
        text: &str,
        name: Option<&str>,
        variables: Value,
    ) -> Result<PreparedOperation, Rejection> {
        documents.find(text.into(), name.map(Into::into), &Variables::from_value(variables)).await
    }

    async fn code(text: &str, name: Option<&str>, variables: Value) -> Code {
        let documents = DocumentCache::new(true);
        let first = found(&documents, text, name, variables.clone()).await.expect_err(text);
        let again = found(&documents, text, name, variables).await.expect_err(text);
        assert_eq!(first, again, "what is refused once is refused again");
        first.code()
    }

    #[tokio::test]
    async fn an_operation_is_taken_out_of_its_document() {
        let text =
            "query A { me { ...F } } query B($id: ID!) { user(id: $id) { ...F login } } fragment F on User { id }
            mutation C { logout }";
        let documents = DocumentCache::new(true);
        for _ in 0..2 {
            let a = found(&documents, text, Some("A"), value!({})).await.expect("A");
            assert_eq!((a.operation.kind, a.cost, a.variables.len()), (OperationType::Query, 2, 0));
            let b = found(&documents, text, Some("B"), value!({ "id": "x" })).await.expect("B");
            assert_eq!((b.cost, b.operation.document.fragments.len()), (3, 1));
            let c = found(&documents, text, Some("C"), value!({})).await.expect("C");
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
        let text = "query($id: ID!, $first: Int) { dialog(id: $id) { participants(first: $first) { nodes { id } } } }";
        let cost = |first: Value| {
            let documents = &documents;
            async move {
                found(documents, text, None, value!({ "id": "x", "first": first }))
                    .await
                    .map(|ready| ready.cost)
            }
        };
        assert_eq!(cost(value!(100)).await, Ok(202));
        assert_eq!(cost(value!(1)).await, Ok(4));
        assert_eq!(cost(Value::Null).await, Ok(42), "a page is 20 where nobody says");
        let left_out = found(&documents, text, None, value!({ "id": "x" })).await;
        assert_eq!(left_out.map(|ready| ready.cost), Ok(42));
        for bad in [
            value!({}),
            value!({ "id": null }),
            value!({ "id": [1] }),
            value!({ "id": "x", "first": "many" }),
        ] {
            let refused = found(&documents, text, None, bad.clone()).await.expect_err("refused");
            assert_eq!(refused.code(), Code::GraphqlValidationFailed, "{bad}");
        }
    }

    #[tokio::test]
    async fn the_bound_on_cost_passes_at_its_edge() {
        let page = |fields: usize| {
            let fields: String = (0..fields).map(|_| " id").collect();
            format!(
                "{{ dialogs(first: 100) {{ nodes {{ messages(first: 40) {{ nodes {{ seq {fields} }} }} }} }} }}"
            )
        };
        let documents = DocumentCache::new(true);
        let ready = found(&documents, &page(2), None, value!({})).await.expect("within");
        assert_eq!(ready.cost, 1 + 100 * (1 + 1 + 40 * 4));
        assert_eq!(code(&page(4), None, value!({})).await, Code::LimitExceeded);
        assert_eq!(affordable(query_limits::COMPLEXITY_MAX), Ok(()));
        assert_eq!(
            affordable(query_limits::COMPLEXITY_MAX + 1).map_err(|error| error.code()),
            Err(Code::LimitExceeded)
        );
    }

    /// What can be large costs by how large it can be: a unit is about a kilobyte.
    #[tokio::test]
    async fn what_can_be_large_is_dear_and_what_clients_ask_for_passes() {
        let documents = DocumentCache::new(true);
        let cost = async |text: &str| {
            let found = found(&documents, text, None, value!({})).await;
            found.map(|ready| ready.cost).map_err(|rejected| rejected.code())
        };
        let everything = schema::FULL_DIALOG_PAGE.replace("FIRST", "50");
        assert_eq!(cost(&everything).await, Ok(18_101));
        let plain = "subscription { unread { kind version total truncated changed { dialogId unread } } }";
        assert_eq!(cost(plain).await, Ok(2_006));
        let named = "subscription { unread { total changed { dialogId unread readSeq lastSeq dialog { title lastMessage { seq } } } } }";
        assert_eq!(cost(named).await, Ok(1 + 1 + 1 + 1_000 * 8));
        assert_eq!(cost("{ dialogs(first: 100) { nodes { participantIds } } }").await, Ok(1 + 100 * 41));
        let texts = |dialogs: usize| {
            format!(
                "{{ dialogs(first: {dialogs}) {{ nodes {{ messages(first: 100) {{ nodes {{ text }} }} }} }} }}"
            )
        };
        assert_eq!(cost(&texts(11)).await, Ok(1 + 11 * (1 + 1 + 100 * 17)));
        assert_eq!(cost(&texts(12)).await, Err(Code::LimitExceeded), "1,200 texts of 16 kB");
    }

    #[tokio::test]
    async fn lists_inside_lists_never_overflow() {
        let deep = "{ dialogs(first: 100) { nodes { messages(first: 100) { nodes { sender { id } } }
            a: messages(last: 2147483647) { nodes { id } } participants(first: 100) { nodes { id } } } } }";
        assert_eq!(code(deep, None, value!({})).await, Code::LimitExceeded);
        let entities = "query($r: [_Any!]!) { _entities(representations: $r) { ... on Dialog { messages(first: 100) { nodes { id seq } } } } }";
        assert_eq!(code(entities, None, value!({ "r": [] })).await, Code::LimitExceeded);
        let entities = "query($r: [_Any!]!) { _entities(representations: $r) { __typename } }";
        let many = |count: usize| value!({ "r": vec![value!({ "__typename": "User", "id": "x" }); count] });
        assert_eq!(code(entities, None, many(query_limits::ENTITIES_MAX + 1)).await, Code::LimitExceeded);
        assert!(
            found(&DocumentCache::new(true), entities, None, many(query_limits::ENTITIES_MAX)).await.is_ok()
        );
    }

    #[tokio::test]
    async fn passwords_are_dear_because_their_hashes_are_slow() {
        let logins = |count: usize| {
            let login =
                |n| format!("a{n}: login(input: {{ login: \"a\", password: \"b\" }}) {{ accessToken }} ");
            format!("mutation {{ {} }}", (0..count).map(login).collect::<String>())
        };
        let ready = found(&DocumentCache::new(true), &logins(19), None, value!({})).await.expect("within");
        assert_eq!(ready.cost, 19 * 1_001);
        assert_eq!(code(&logins(20), None, value!({})).await, Code::LimitExceeded);
    }

    #[tokio::test]
    async fn a_syntax_error_says_where_and_what_and_shows_no_drawing() {
        let refused =
            found(&DocumentCache::new(true), "{ me { id }", None, value!({})).await.expect_err("refused");
        assert_eq!(refused.code(), Code::GraphqlParseFailed);
        let shown = &refused.errors()[0];
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
    async fn what_is_kept_is_bounded() {
        let documents = DocumentCache::new(true);
        for number in 0..60 {
            let text = format!("{{ me {{ id }} }} # {number} {}", "x".repeat(100_000));
            found(&documents, &text, None, value!({})).await.expect("valid");
            documents.kept.run_pending_tasks().await;
            assert!(documents.kept.weighted_size() <= KEPT_BYTES);
        }
        assert!(documents.kept.entry_count() > 0, "there is room for some");
    }
}
