//! Parsing and validation of documents by `apollo-compiler`, against the schema that the executor exports.
//!
//! Every document is validated whole, also the operations that are not run. The module `missing_rules` has
//! the rules that the library does not check.

use std::sync::Arc;

use apollo_compiler::{
    ExecutableDocument, Node, Schema,
    ast::Document,
    executable::Operation,
    parser::{LineColumn, Parser, SourceMap},
    schema::ExtendedType,
    validation::{DiagnosticList, Valid},
};
use async_graphql::{Pos, ServerError};

use super::lexical;
use crate::{
    error::{Code, Error, Rejection},
    schema,
};

/// Most errors that one rejection reports.
pub const ERRORS_MAX: usize = 20;

/// Parses and validates documents. Cheap to clone.
#[derive(Clone)]
pub struct Validator {
    schema: Arc<Valid<Schema>>,
    suggestions: bool,
}

impl Validator {
    /// Creates a validator. `suggestions` adds "did you mean" hints, which reveal names of the schema.
    ///
    /// # Panics
    /// If the schema that the executor exports is invalid.
    pub fn new(suggestions: bool) -> Self {
        Self { schema: Arc::new(parse_schema(&schema::build().finish().sdl())), suggestions }
    }

    /// Returns the schema.
    pub fn schema(&self) -> &Valid<Schema> {
        &self.schema
    }

    /// Parses a document, which must be within the limits on tokens.
    ///
    /// # Errors
    /// GRAPHQL_PARSE_FAILED.
    pub fn parse(text: &str) -> Result<Document, Rejection> {
        if let Some(name) = lexical::name_without_colon(text) {
            let message = format!("syntax error: expected \":\" after \"{}\"", name.text);
            let error = ServerError::new(message, Some(position_of_byte(text, name.start)));
            return Err(Rejection::coded(Code::GraphqlParseFailed, vec![error]));
        }
        Parser::new().parse_ast(lexical::blank_ignored(text), "document").map_err(|failed| {
            let errors = server_errors(&failed.errors, |message| Some(message.to_owned()));
            Rejection::coded(Code::GraphqlParseFailed, errors)
        })
    }

    /// Validates a document, which must be within the limits on its size with all fragments expanded. Does
    /// not check the rules of `missing_rules`.
    ///
    /// # Errors
    /// GRAPHQL_VALIDATION_FAILED.
    pub fn validate(&self, document: &Document) -> Result<Valid<ExecutableDocument>, Rejection> {
        document.to_executable_validate(&self.schema).or_else(|failed| {
            let errors = server_errors(&failed.errors, |message| self.shown(message));
            if errors.is_empty() {
                return Ok(Valid::assume_valid(failed.partial));
            }
            Err(Rejection::invalid(errors))
        })
    }

    /// Returns the message that a client sees, `None` for a false error.
    fn shown(&self, message: &str) -> Option<String> {
        // The library counts equal fields of a subscription, which are merged. `missing_rules` counts
        // response names.
        if message.ends_with("can only have one root field") {
            return None;
        }
        let hint = if self.suggestions { self.suggestion(message) } else { None };
        let hint = hint.map(|name| format!(". Did you mean \"{name}\"?")).unwrap_or_default();
        Some(format!("{}{hint}", message.replace('`', "\"")))
    }

    /// Returns the most similar field if a field is unknown.
    fn suggestion(&self, message: &str) -> Option<&str> {
        let mut parts = message.split('`');
        let ["type ", parent, " does not have a field ", field] =
            std::array::from_fn(|_| parts.next().unwrap_or(""))
        else {
            return None;
        };
        let fields = match self.schema.types.get(parent)? {
            ExtendedType::Object(object) => &object.fields,
            ExtendedType::Interface(interface) => &interface.fields,
            _ => return None,
        };
        let distances = fields.keys().map(|name| (strsim::damerau_levenshtein(name, field), name.as_str()));
        let threshold = field.len() * 2 / 5 + 1;
        distances.filter(|(distance, _)| *distance <= threshold).min().map(|(_, name)| name)
    }
}

/// Parses a schema in the schema definition language.
///
/// # Panics
/// If the text is not a valid schema.
pub fn parse_schema(sdl: &str) -> Valid<Schema> {
    match Schema::parse_and_validate(sdl, "schema") {
        Ok(schema) => schema,
        Err(invalid) => panic!("the schema is invalid: {}", invalid.errors),
    }
}

/// Selects the operation to run.
///
/// # Errors
/// BAD_REQUEST if no operation has the name, or if there is no name and several operations.
pub fn select<'a>(
    document: &'a ExecutableDocument,
    name: Option<&str>,
) -> Result<&'a Node<Operation>, Error> {
    if let Ok(operation) = document.operations.get(name) {
        return Ok(operation);
    }
    let message = match name {
        None => "the document has several operations: choose one with `operationName`".to_owned(),
        Some(name) => {
            let shown: String = name.chars().take(64).collect();
            format!("the document has no operation \"{shown}\"")
        }
    };
    Err(Error::new(Code::BadRequest, message))
}

/// Returns the position of a node in its document, for errors.
pub fn position<T: ?Sized>(node: &Node<T>, sources: &SourceMap) -> Pos {
    node.line_column_range(sources).map(|range| pos(range.start)).unwrap_or_default()
}

/// Returns the position of a byte in a text.
fn position_of_byte(text: &str, byte: usize) -> Pos {
    let before = text.get(..byte).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    Pos { line: before.matches('\n').count() + 1, column: line.chars().count() + 1 }
}

fn pos(start: LineColumn) -> Pos {
    Pos { line: start.line, column: start.column }
}

/// Converts the library's errors. `shown` returns the message of each, `None` to leave it out.
fn server_errors(errors: &DiagnosticList, shown: impl Fn(&str) -> Option<String>) -> Vec<ServerError> {
    let errors = errors.iter().filter_map(|diagnostic| {
        let message = shown(&diagnostic.error.to_string())?;
        let start = diagnostic.line_column_range().map(|range| pos(range.start));
        Some(ServerError::new(message, start))
    });
    errors.take(ERRORS_MAX).collect()
}
