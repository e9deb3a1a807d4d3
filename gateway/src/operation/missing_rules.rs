//! Rules of the GraphQL specification that `apollo-compiler` does not check: variables in allowed positions
//! inside lists and input objects (5.8.5), unique input fields (5.6.3), and one root field of a subscription
//! after its selections are merged (5.2.4.1).

use std::collections::{HashMap, HashSet};

use apollo_compiler::{
    ExecutableDocument, Name, Node, Schema,
    ast::{Argument, DirectiveList, InputValueDefinition, Type, Value, VariableDefinition},
    executable::{Operation, Selection, SelectionSet},
};
use async_graphql::ServerError;

use super::validation::{ERRORS_MAX, position};

/// Returns the violations of a document that is valid otherwise.
pub fn check(schema: &Schema, document: &ExecutableDocument) -> Vec<ServerError> {
    let mut errors = Vec::new();
    for operation in document.operations.iter() {
        let variables = operation.variables.iter().map(|variable| (&variable.name, &**variable)).collect();
        let mut check = Check { schema, document, variables, visited: HashSet::new(), errors: &mut errors };
        check.operation(operation);
        if operation.is_subscription() {
            check.root_field(operation);
        }
    }
    errors.truncate(ERRORS_MAX);
    errors
}

struct Check<'a, 'e> {
    schema: &'a Schema,
    document: &'a ExecutableDocument,
    variables: HashMap<&'a Name, &'a VariableDefinition>,
    /// Fragments that were checked with these variables.
    visited: HashSet<&'a Name>,
    errors: &'e mut Vec<ServerError>,
}

/// Type that an input position expects.
#[derive(Clone, Copy)]
struct Expected<'a> {
    ty: &'a Type,
    has_default: bool,
}

impl<'a> Expected<'a> {
    fn of(definition: &'a InputValueDefinition) -> Self {
        Self { ty: &definition.ty, has_default: definition.default_value.is_some() }
    }
}

impl<'a> Check<'a, '_> {
    fn operation(&mut self, operation: &'a Operation) {
        self.directives(&operation.directives);
        for variable in &operation.variables {
            self.directives(&variable.directives);
            if let Some(default) = &variable.default_value {
                self.value(default, Some(Expected { ty: &variable.ty, has_default: false }));
            }
        }
        self.selections(&operation.selection_set);
    }

    fn selections(&mut self, set: &'a SelectionSet) {
        for selection in &set.selections {
            match selection {
                Selection::Field(field) => {
                    self.arguments(&field.definition.arguments, &field.arguments);
                    self.directives(&field.directives);
                    self.selections(&field.selection_set);
                }
                Selection::InlineFragment(fragment) => {
                    self.directives(&fragment.directives);
                    self.selections(&fragment.selection_set);
                }
                Selection::FragmentSpread(spread) => {
                    self.directives(&spread.directives);
                    let fragment = self.document.fragments.get(&spread.fragment_name);
                    if let Some(fragment) = fragment.filter(|fragment| self.visited.insert(&fragment.name)) {
                        self.directives(&fragment.directives);
                        self.selections(&fragment.selection_set);
                    }
                }
            }
        }
    }

    fn directives(&mut self, directives: &'a DirectiveList) {
        for directive in directives.iter() {
            if let Some(definition) = self.schema.directive_definitions.get(&directive.name) {
                self.arguments(&definition.arguments, &directive.arguments);
            }
        }
    }

    fn arguments(&mut self, definitions: &'a [Node<InputValueDefinition>], arguments: &'a [Node<Argument>]) {
        for argument in arguments {
            let definition = definitions.iter().find(|definition| definition.name == argument.name);
            self.value(&argument.value, definition.map(|definition| Expected::of(definition)));
        }
    }

    /// Checks a value and the values in it. `expected` is `None` inside a custom scalar.
    fn value(&mut self, value: &'a Node<Value>, expected: Option<Expected<'a>>) {
        match &**value {
            Value::Variable(name) => {
                if let (Some(variable), Some(expected)) = (self.variables.get(name), expected)
                    && !is_allowed(variable, expected)
                {
                    let message = format!(
                        "variable \"${name}\" of type \"{}\" is used where \"{}\" is expected",
                        variable.ty, expected.ty
                    );
                    self.error(value, message);
                }
            }
            Value::List(items) => {
                let item = expected.filter(|expected| expected.ty.is_list());
                let item = item.map(|expected| Expected { ty: expected.ty.item_type(), has_default: false });
                items.iter().for_each(|value| self.value(value, item));
            }
            Value::Object(fields) => {
                let named = expected.map(|expected| expected.ty.inner_named_type());
                let definition = named.and_then(|name| self.schema.get_input_object(name));
                let mut names = HashSet::new();
                for (name, value) in fields {
                    if !names.insert(name) {
                        self.error(value, format!("the input field \"{name}\" is given twice"));
                    }
                    let field = definition.and_then(|definition| definition.fields.get(name));
                    self.value(value, field.map(|field| Expected::of(field)));
                }
            }
            _ => {}
        }
    }

    fn root_field(&mut self, operation: &'a Node<Operation>) {
        let mut names = HashSet::new();
        self.root_names(&operation.selection_set, &mut names, &mut HashSet::new());
        if names.len() > 1 {
            self.error(operation, "a subscription has exactly one root field".to_owned());
        }
    }

    fn root_names(
        &self,
        set: &'a SelectionSet,
        names: &mut HashSet<&'a Name>,
        visited: &mut HashSet<&'a Name>,
    ) {
        for selection in &set.selections {
            match selection {
                Selection::Field(field) => {
                    names.insert(field.response_key());
                }
                Selection::InlineFragment(fragment) => {
                    self.root_names(&fragment.selection_set, names, visited)
                }
                Selection::FragmentSpread(spread) => {
                    let fragment = self.document.fragments.get(&spread.fragment_name);
                    if let Some(fragment) = fragment.filter(|fragment| visited.insert(&fragment.name)) {
                        self.root_names(&fragment.selection_set, names, visited);
                    }
                }
            }
        }
    }

    fn error<T: ?Sized>(&mut self, node: &Node<T>, message: String) {
        self.errors.push(ServerError::new(message, Some(position(node, &self.document.sources))));
    }
}

/// Decides whether a variable may be used in a position, by section 5.8.5 of the specification.
fn is_allowed(variable: &VariableDefinition, expected: Expected<'_>) -> bool {
    if !expected.ty.is_non_null() || variable.ty.is_non_null() {
        return variable.ty.is_assignable_to(expected.ty);
    }
    let has_default = variable.default_value.as_ref().is_some_and(|default| !default.is_null());
    (has_default || expected.has_default) && variable.ty.is_assignable_to(&expected.ty.clone().nullable())
}
