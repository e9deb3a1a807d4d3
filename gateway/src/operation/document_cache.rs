//! Document cache: turns the text of a document into a normalized operation within all limits, and keeps
//! it for the next request with the same text. The cache is bounded and shared by all clients.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use apollo_compiler::{
    ExecutableDocument, Name, Node, ast::VariableDefinition, executable::Operation, validation::Valid,
};
use async_graphql::{Value, Variables};
use async_graphql_parser::types::{
    DocumentOperations, ExecutableDocument as ExecutorDocument, OperationType, Selection,
};
use moka::future::Cache;

use super::{
    coercion,
    complexity::Complexity,
    known_costs::KnownCosts,
    missing_rules,
    normalization::{NormalizedOperation, condition_variables, normalize},
    query_limits,
    response_shape::ResponseShape,
    token_limits,
    validation::{Validator, select},
};
use crate::{
    error::{Code, Error, Rejection},
    schema::plan::Plan,
};

/// Capacity of the cache: total size of the document texts, in bytes. A document takes up to fifty times its
/// text, so this is at most 100 MB of memory.
const CAPACITY_BYTES: u64 = 2 << 20;
/// Fixed weight of an entry beside its text, in bytes, so that the number of short documents is bounded too.
const ENTRY_BYTES: usize = 512;

/// Cache of validated documents. Cheap to clone; clones share their entries.
#[derive(Clone)]
pub struct DocumentCache {
    validator: Validator,
    complexity: Complexity,
    introspection: bool,
    documents: Cache<Key, Arc<ValidDocument>>,
    operations: Cache<(Key, Conditions), Arc<CachedOperation>>,
}

/// Text of a document and the name of one of its operations.
type Key = (Arc<str>, Option<String>);

/// Values of the variables that `@skip` and `@include` depend on.
type Conditions = Box<[bool]>;

/// Valid document, with the operation that is selected in it.
struct ValidDocument {
    variables: Vec<Node<VariableDefinition>>,
    form: Form,
}

/// Normal forms of an operation.
enum Form {
    /// No directive depends on a variable: there is one form.
    Fixed(Arc<CachedOperation>),
    /// `@skip` or `@include` depends on a variable.
    Conditional(Box<Conditional>),
}

/// Operation whose normal form depends on variables.
struct Conditional {
    executable: Valid<ExecutableDocument>,
    name: Option<String>,
    condition_variables: Vec<Name>,
}

/// Normalized operation with its cost.
struct CachedOperation {
    operation: NormalizedOperation,
    /// Cost of the operation, `None` if it depends on variables.
    cost: Option<usize>,
    /// Costs of an operation that depends on variables.
    known_costs: KnownCosts,
    /// Plan of the operation, `None` if only the resolvers execute it.
    plan: Option<Plan>,
}

/// Operation of one request: normalized, with the values of its variables, and within all limits.
#[derive(Clone)]
pub struct PreparedOperation {
    cached: Arc<CachedOperation>,
    /// Document with the values of its variables, `None` until the resolvers need it.
    document: OnceLock<Arc<ExecutorDocument>>,
    /// Kind of the operation: query, mutation or subscription.
    pub kind: OperationType,
    /// Values of the declared variables.
    pub variables: Arc<Variables>,
    /// Maximum cost of the request.
    pub cost: usize,
}

impl PreparedOperation {
    /// Returns the document that the resolvers execute.
    pub fn document(&self) -> &Arc<ExecutorDocument> {
        self.document.get_or_init(|| self.cached.operation.document(&self.variables))
    }

    /// Returns the shape of the operation's responses.
    pub fn shape(&self) -> &Arc<ResponseShape> {
        &self.cached.operation.shape
    }

    /// Returns the plan of the operation, `None` if only the resolvers execute it.
    pub fn plan(&self) -> Option<&Plan> {
        self.cached.plan.as_ref()
    }
}

impl fmt::Debug for PreparedOperation {
    /// Omits the document, whose values may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedOperation")
            .field("kind", &self.kind)
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

impl DocumentCache {
    /// Creates an empty cache. `introspection` allows `__schema` and "did you mean" hints.
    pub fn new(introspection: bool) -> Self {
        let weight = |key: &Key| u32::try_from(key.0.len() + ENTRY_BYTES).unwrap_or(u32::MAX);
        Self {
            validator: Validator::new(introspection),
            complexity: Complexity::default(),
            introspection,
            documents: Cache::builder()
                .max_capacity(CAPACITY_BYTES)
                .weigher(move |key: &Key, _| weight(key))
                .build(),
            operations: Cache::builder()
                .max_capacity(CAPACITY_BYTES)
                .weigher(move |(key, _): &(Key, Conditions), _| weight(key))
                .build(),
        }
    }

    /// Returns the operation of a document with the values of its variables, checked against every limit
    /// and the schema. Nothing is executed before the values of all variables are known to be valid.
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
        let cached = self.documents.get(&key).await;
        let document = match &cached {
            Some(document) => document.clone(),
            None => Arc::new(self.validate(&key.0, key.1.as_deref())?),
        };
        let variables = coercion::variables(self.validator.schema(), &document.variables, given)?;
        let operation = self.operation(&key, &document, &variables).await;
        let prepared = self.prepared(operation, variables)?;
        if cached.is_none() {
            self.documents.insert(key, document).await;
        }
        Ok(prepared)
    }

    /// Returns the normal form of a document's operation with these values of its variables.
    async fn operation(
        &self,
        key: &Key,
        document: &ValidDocument,
        variables: &Variables,
    ) -> Arc<CachedOperation> {
        match &document.form {
            Form::Fixed(operation) => operation.clone(),
            Form::Conditional(conditional) => {
                let Conditional { executable, name, condition_variables } = &**conditional;
                let value = |name: &Name| variables.get(name.as_str()) == Some(&Value::Boolean(true));
                let key = (key.clone(), condition_variables.iter().map(value).collect());
                let operation = select(executable, name.as_deref()).expect("it was selected before");
                let normalized = async { Arc::new(self.normalize(executable, operation, variables)) };
                self.operations.get_with(key, normalized).await
            }
        }
    }

    fn validate(&self, text: &str, name: Option<&str>) -> Result<ValidDocument, Rejection> {
        token_limits::check(text)?;
        metrics::counter!("gateway_documents_parsed_total").increment(1);
        let document = Validator::parse(text)?;
        query_limits::check(&document, self.introspection)?;
        let executable = self.validator.validate(&document)?;
        let errors = missing_rules::check(self.validator.schema(), &executable);
        if !errors.is_empty() {
            return Err(Rejection::invalid(errors));
        }
        let operation = select(&executable, name)?;
        let variables = operation.variables.clone();
        let conditions = condition_variables(&executable, operation);
        let form = if conditions.is_empty() {
            Form::Fixed(Arc::new(self.normalize(&executable, operation, &Variables::default())))
        } else {
            let name = name.map(str::to_owned);
            Form::Conditional(Box::new(Conditional { name, condition_variables: conditions, executable }))
        };
        Ok(ValidDocument { variables, form })
    }

    fn normalize(
        &self,
        executable: &ExecutableDocument,
        operation: &Operation,
        variables: &Variables,
    ) -> CachedOperation {
        let operation = normalize(self.validator.schema(), executable, operation, variables);
        let cost = (!operation.has_variables()).then(|| self.cost(&operation.document(variables)));
        let plan = Plan::of(operation.unresolved());
        CachedOperation { operation, cost, known_costs: KnownCosts::default(), plan }
    }

    /// Returns the operation of one request.
    fn prepared(
        &self,
        cached: Arc<CachedOperation>,
        variables: Variables,
    ) -> Result<PreparedOperation, Rejection> {
        let kind = cached.operation.kind;
        let variables = Arc::new(variables);
        let mut prepared =
            PreparedOperation { cached, document: OnceLock::new(), kind, variables, cost: usize::MAX };
        // A plan has no field `_entities`.
        if prepared.plan().is_none() {
            query_limits::check_entities(entity_count(prepared.document()))?;
        }
        let CachedOperation { cost, known_costs, .. } = &*prepared.cached;
        let computed = || self.cost(prepared.document());
        prepared.cost = cost.unwrap_or_else(|| known_costs.get(&prepared.variables, computed));
        check_cost(prepared.cost)?;
        Ok(prepared)
    }

    fn cost(&self, document: &ExecutorDocument) -> usize {
        let per_entity = self.complexity.of(document);
        per_entity.saturating_mul(entity_count(document).max(1))
    }
}

/// Returns the largest number of entities that one `_entities` field of a document requests.
fn entity_count(document: &ExecutorDocument) -> usize {
    let DocumentOperations::Single(operation) = &document.operations else { return 0 };
    let counts = operation.node.selection_set.node.items.iter().map(|selection| match &selection.node {
        Selection::Field(field) if field.node.name.node == "_entities" => {
            match field.node.get_argument("representations").map(|argument| &argument.node) {
                Some(async_graphql_value::Value::List(entities)) => entities.len(),
                _ => 0,
            }
        }
        _ => 0,
    });
    counts.max().unwrap_or(0)
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

#[cfg(test)]
mod tests {
    use async_graphql::value;

    use super::*;
    use crate::schema;

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
            assert_eq!((a.kind, a.cost, a.variables.len()), (OperationType::Query, 2, 0));
            let b = prepared(&documents, text, Some("B"), value!({ "id": "x" })).await.expect("B");
            assert_eq!((b.cost, b.variables.len()), (3, 1));
            let c = prepared(&documents, text, Some("C"), value!({})).await.expect("C");
            assert_eq!(c.kind, OperationType::Mutation);
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
            let fields: String = ["id", "dialogId", "senderId", "status"]
                .iter()
                .take(fields)
                .fold(String::new(), |all, field| all + " " + field);
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

    /// A unit of cost is 400 bytes of answer.
    #[tokio::test]
    async fn fields_cost_by_their_largest_size_and_common_queries_pass() {
        let documents = DocumentCache::new(true);
        let cost = async |text: &str| {
            let prepared = prepared(&documents, text, None, value!({})).await;
            prepared.map(|ready| ready.cost).map_err(|rejected| rejected.code())
        };
        let everything = schema::FULL_DIALOG_PAGE.replace("FIRST", "50");
        assert_eq!(cost(&everything).await, Ok(19_301));
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
        assert_eq!(cost(&texts(4)).await, Ok(1 + 4 * (1 + 1 + 100 * 41)));
        assert_eq!(cost(&texts(5)).await, Err(Code::LimitExceeded), "500 texts of 16 kB");
    }

    #[tokio::test]
    async fn nested_lists_never_overflow() {
        let deep = "{ dialogs(first: 100) { nodes { messages(first: 100) { nodes { sender { id } } }
            a: messages(last: 2147483647) { nodes { id } } participants(first: 100) { nodes { id } } } } }";
        assert_eq!(code(deep, None, value!({})).await, Code::LimitExceeded);
        let entities = "query($r: [_Any!]!) { _entities(representations: $r) {
            ... on Dialog { messages(first: 100) { nodes { id seq } } } } }";
        let many = |count: usize| value!({ "r": vec![value!({ "__typename": "User", "id": "x" }); count] });
        assert_eq!(code(entities, None, many(100)).await, Code::LimitExceeded);
        let few = prepared(&DocumentCache::new(true), entities, None, many(2)).await;
        assert_eq!(few.map(|ready| ready.cost), Ok(2 * (1 + 1 + 100 * 3)));
        let entities = "query($r: [_Any!]!) { _entities(representations: $r) { __typename } }";
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
        for text in ["", "#", "\0", "{ \"", "🏃"] {
            assert_eq!(code(text, None, value!({})).await, Code::GraphqlParseFailed, "{text:?}");
        }
        for text in ["fragment F on User { id }", "type A { b: Int }"] {
            assert_eq!(code(text, None, value!({})).await, Code::GraphqlValidationFailed, "{text:?}");
        }
    }
    #[tokio::test]
    async fn the_cache_is_bounded() {
        let documents = DocumentCache::new(true);
        for number in 0..60 {
            let text = format!("{{ me {{ id }} }} # {number} {}", "x".repeat(100_000));
            prepared(&documents, &text, None, value!({})).await.expect("valid");
            documents.documents.run_pending_tasks().await;
            assert!(documents.documents.weighted_size() <= CAPACITY_BYTES);
        }
        assert!(documents.documents.entry_count() > 0, "there is room for some");
    }
}
