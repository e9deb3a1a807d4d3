//! One GraphQL operation as a transport parsed it, before any limit is checked: the input of
//! [`Pipeline::admit`](super::Pipeline::admit).

use std::{fmt, sync::Arc};

use async_graphql::Variables;

/// Request to run one operation. Documents and variables may hold passwords and message texts: `Debug`
/// shows neither.
#[derive(Default)]
pub struct OperationRequest {
    /// Text of the document, `None` if the client only sends its id or hash.
    pub query: Option<String>,
    /// Id of a persisted or trusted document, in the field that the GraphQL over HTTP specification
    /// defines. Apollo's clients send a hash in the extensions instead.
    pub document_id: Option<String>,
    /// Name of the operation to run. Required if the document has several.
    pub operation_name: Option<String>,
    /// Values of the operation's variables.
    pub variables: Variables,
    /// Protocol extensions that the client sent.
    pub extensions: serde_json::Map<String, serde_json::Value>,
}

impl fmt::Debug for OperationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationRequest")
            .field("operation_name", &self.operation_name)
            .finish_non_exhaustive()
    }
}

/// Key by which equal operations share results: document, operation name and variables. Requests
/// with the same key get the same result if the caller and the stored data are the same. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct OperationKey(Arc<Parts>);

#[derive(PartialEq, Eq, Hash)]
struct Parts {
    document: Arc<str>,
    operation_name: Option<String>,
    variables_json: String,
}

impl fmt::Debug for OperationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperationKey({} bytes)", self.size_bytes())
    }
}

impl OperationKey {
    /// Creates the key of one operation of a document with these values of its variables.
    pub fn new(document: Arc<str>, operation_name: Option<String>, variables: &Variables) -> Self {
        let variables_json = serde_json::to_string(variables).unwrap_or_default();
        Self(Arc::new(Parts { document, operation_name, variables_json }))
    }

    /// Size of the key's content, in bytes.
    pub fn size_bytes(&self) -> usize {
        let Parts { document, operation_name, variables_json } = &*self.0;
        document.len() + operation_name.as_ref().map_or(0, String::len) + variables_json.len()
    }
}

/// Returns the reason why a value of a JSON text cannot be represented, `None` for another error. The text
/// must be known to be JSON: then only a number out of range, half of a surrogate pair and deep nesting are
/// left as errors of syntax.
pub fn unrepresentable(error: &serde_json::Error) -> Option<&'static str> {
    if !error.is_syntax() {
        return None;
    }
    let message = error.to_string();
    Some(if message.starts_with("number out of range") {
        "a number is out of range"
    } else if message.starts_with("recursion limit exceeded") {
        "lists and objects are nested too deep"
    } else {
        "a string has half of a surrogate pair"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_contains_neither_document_nor_variables() {
        let variables = Variables::from_json(serde_json::json!({ "password": "hidden" }));
        let key = OperationKey::new("{ a(b: \"hidden\") }".into(), None, &variables);
        let request =
            OperationRequest { query: Some("hidden".to_owned()), variables, ..OperationRequest::default() };
        let shown = format!("{request:?} {key:?}");
        assert!(!shown.contains("hidden"), "{shown}");
    }
}
