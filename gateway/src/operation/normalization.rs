//! Normalization of an operation: equal selections are merged, fragments are inlined, `@skip` and `@include`
//! are resolved, and literals are coerced, by sections 6.3.2 and 6.4.1 of the GraphQL specification.
//!
//! The executor does none of this completely: it runs a field once for each time that it is selected, and
//! drops an object without selections. A normalized operation needs neither.

use std::{collections::HashMap, sync::Arc};

use apollo_compiler::{
    ExecutableDocument, Name, Node, Schema,
    ast::{self, DirectiveList, FieldDefinition, Type},
    collections::IndexMap,
    executable::{Field, Operation, Selection, SelectionSet},
    schema::ExtendedType,
};
use async_graphql::{Pos, Positioned, Variables};
use async_graphql_parser::types as executor;

use super::{
    coercion,
    response_shape::{EMPTY_OBJECT, ResponseShape},
    validation::position,
};

/// Normalized operation. Cheap to clone.
#[derive(Clone)]
pub struct NormalizedOperation {
    /// Kind of the operation: query, mutation or subscription.
    pub kind: executor::OperationType,
    /// Shape of the operation's responses.
    pub shape: Arc<ResponseShape>,
    document: Arc<executor::ExecutableDocument>,
    has_variables: bool,
}

impl NormalizedOperation {
    /// Returns the document to execute, with the variables replaced by their values.
    pub fn document(&self, variables: &Variables) -> Arc<executor::ExecutableDocument> {
        if !self.has_variables {
            return self.document.clone();
        }
        let mut document = executor::ExecutableDocument::clone(&self.document);
        if let executor::DocumentOperations::Single(operation) = &mut document.operations {
            resolve(&mut operation.node.selection_set.node, variables);
        }
        Arc::new(document)
    }

    /// Returns the document with its variables.
    pub fn unresolved(&self) -> &executor::ExecutableDocument {
        &self.document
    }

    /// Returns true if the document depends on the values of variables.
    pub fn has_variables(&self) -> bool {
        self.has_variables
    }
}

fn resolve(set: &mut executor::SelectionSet, variables: &Variables) {
    for selection in &mut set.items {
        match &mut selection.node {
            executor::Selection::Field(field) => {
                let field = &mut field.node;
                field.arguments.retain_mut(|(_, value)| {
                    let resolved = coercion::resolved(std::mem::take(&mut value.node), variables);
                    resolved.map(|resolved| value.node = resolved).is_some()
                });
                resolve(&mut field.selection_set.node, variables);
            }
            executor::Selection::InlineFragment(fragment) => {
                resolve(&mut fragment.node.selection_set.node, variables);
            }
            executor::Selection::FragmentSpread(_) => {}
        }
    }
}

/// Returns the variables that the directives `@skip` and `@include` of an operation depend on.
pub fn condition_variables(document: &ExecutableDocument, operation: &Operation) -> Vec<Name> {
    let mut names: Vec<Name> = Vec::new();
    let mut fragments = Vec::new();
    let mut sets = vec![&operation.selection_set];
    while let Some(set) = sets.pop() {
        for selection in &set.selections {
            for directive in selection.directives().iter() {
                let variable = condition(directive).and_then(ast::Value::as_variable);
                names.extend(variable.filter(|name| !names.contains(name)).cloned());
            }
            match selection {
                Selection::Field(field) => sets.push(&field.selection_set),
                Selection::InlineFragment(fragment) => sets.push(&fragment.selection_set),
                Selection::FragmentSpread(spread) if !fragments.contains(&&spread.fragment_name) => {
                    fragments.push(&spread.fragment_name);
                    sets.extend(
                        document.fragments.get(&spread.fragment_name).map(|fragment| &fragment.selection_set),
                    );
                }
                Selection::FragmentSpread(_) => {}
            }
        }
    }
    names
}

fn condition(directive: &ast::Directive) -> Option<&ast::Value> {
    let argument = directive.arguments.iter().find(|argument| argument.name == "if");
    argument
        .filter(|_| matches!(directive.name.as_str(), "skip" | "include"))
        .map(|argument| &*argument.value)
}

/// Normalizes an operation of a valid document, which must be within the limits, since its fragments are
/// expanded. `conditions` are the coerced values of the [`condition_variables`].
pub fn normalize(
    schema: &Schema,
    document: &ExecutableDocument,
    operation: &Operation,
    conditions: &Variables,
) -> NormalizedOperation {
    let mut normalizer = Normalizer { schema, document, conditions, has_variables: false };
    let root = &operation.selection_set.ty;
    let (selection_set, shape) = normalizer.object(root, &[&operation.selection_set], Pos::default());
    let kind = match operation.operation_type {
        ast::OperationType::Query => executor::OperationType::Query,
        ast::OperationType::Mutation => executor::OperationType::Mutation,
        ast::OperationType::Subscription => executor::OperationType::Subscription,
    };
    let definition = executor::OperationDefinition {
        ty: kind,
        variable_definitions: Vec::new(),
        directives: Vec::new(),
        selection_set: Positioned::new(selection_set, Pos::default()),
    };
    let operations = executor::DocumentOperations::Single(Positioned::new(definition, Pos::default()));
    NormalizedOperation {
        kind,
        shape: Arc::new(shape),
        document: Arc::new(executor::ExecutableDocument { operations, fragments: HashMap::new() }),
        has_variables: normalizer.has_variables,
    }
}

struct Normalizer<'a> {
    schema: &'a Schema,
    document: &'a ExecutableDocument,
    conditions: &'a Variables,
    has_variables: bool,
}

/// Fields of an object by response name, in the order of the document.
type Collected<'a> = IndexMap<&'a Name, Vec<&'a Node<Field>>>;

impl<'a> Normalizer<'a> {
    /// Merges the selection sets of an object.
    fn object(
        &mut self,
        ty: &Name,
        sets: &[&'a SelectionSet],
        pos: Pos,
    ) -> (executor::SelectionSet, ResponseShape) {
        let mut collected = Collected::default();
        sets.iter().for_each(|set| self.collect(ty, set, &mut collected));
        let mut items = Vec::with_capacity(collected.len().max(1));
        let mut shape = ResponseShape::default();
        for (response_name, fields) in &collected {
            let (field, field_type, below) = self.field(ty, fields);
            shape.insert(async_graphql::Name::new(response_name), field_type, below);
            items.push(selection(field));
        }
        if items.is_empty() {
            shape.has_empty_objects = true;
            items.push(selection(empty_object(pos)));
        }
        (executor::SelectionSet { items }, shape)
    }

    fn collect(&self, ty: &Name, set: &'a SelectionSet, collected: &mut Collected<'a>) {
        for selection in &set.selections {
            if !self.is_included(selection.directives()) {
                continue;
            }
            match selection {
                Selection::Field(field) => collected.entry(field.response_key()).or_default().push(field),
                Selection::InlineFragment(fragment) => {
                    if fragment.type_condition.as_ref().is_none_or(|condition| self.applies(condition, ty)) {
                        self.collect(ty, &fragment.selection_set, collected);
                    }
                }
                Selection::FragmentSpread(spread) => {
                    let fragment = self.document.fragments.get(&spread.fragment_name);
                    if let Some(fragment) =
                        fragment.filter(|fragment| self.applies(fragment.type_condition(), ty))
                    {
                        self.collect(ty, &fragment.selection_set, collected);
                    }
                }
            }
        }
    }

    fn is_included(&self, directives: &DirectiveList) -> bool {
        directives.iter().all(|directive| {
            let Some(condition) = condition(directive) else { return true };
            let value = match condition {
                ast::Value::Variable(name) => {
                    self.conditions.get(name.as_str()) == Some(&async_graphql::Value::Boolean(true))
                }
                condition => condition.to_bool() == Some(true),
            };
            value == (directive.name == "include")
        })
    }

    /// Returns true if a fragment on a type applies to an object.
    fn applies(&self, condition: &Name, object: &Name) -> bool {
        condition == object || self.schema.is_subtype(condition, object)
    }

    /// Merges fields with one response name.
    fn field(
        &mut self,
        parent: &Name,
        fields: &[&'a Node<Field>],
    ) -> (Positioned<executor::Field>, Type, ResponseShape) {
        let first = fields.first().copied().expect("a response name with a field");
        let pos = position(first, &self.document.sources);
        let definition = self.schema.type_field(parent, &first.name).map(|definition| &***definition);
        let definition: &FieldDefinition = definition.unwrap_or(&first.definition);
        let sets: Vec<_> = fields.iter().map(|field| &field.selection_set).collect();
        let (selection_set, shape) = self.below(definition.ty.inner_named_type(), &sets, pos);
        let name = |name: &Name| Positioned::new(async_graphql::Name::new(name), pos);
        let field = executor::Field {
            alias: first.alias.as_ref().map(name),
            name: name(&first.name),
            arguments: self.arguments(definition, first, pos),
            directives: Vec::new(),
            selection_set: Positioned::new(selection_set, pos),
        };
        (Positioned::new(field, pos), definition.ty.clone(), shape)
    }

    fn arguments(
        &mut self,
        definition: &FieldDefinition,
        field: &Field,
        pos: Pos,
    ) -> Vec<(Positioned<async_graphql::Name>, Positioned<async_graphql_value::Value>)> {
        let arguments = field.arguments.iter().filter_map(|argument| {
            let definition =
                definition.arguments.iter().find(|definition| definition.name == argument.name)?;
            self.has_variables |= contains_variable(&argument.value);
            let value = coercion::literal(self.schema, &definition.ty, &argument.value);
            let name = async_graphql::Name::new(&argument.name);
            Some((Positioned::new(name, pos), Positioned::new(value, pos)))
        });
        arguments.collect()
    }

    /// Merges the selection sets below a field, whose type is a leaf, an object, an interface or a union.
    fn below(
        &mut self,
        ty: &Name,
        sets: &[&'a SelectionSet],
        pos: Pos,
    ) -> (executor::SelectionSet, ResponseShape) {
        let schema = self.schema;
        match schema.types.get(ty) {
            Some(ExtendedType::Object(_)) => return self.object(ty, sets, pos),
            Some(ExtendedType::Interface(_) | ExtendedType::Union(_)) => {}
            _ => return Default::default(),
        }
        let mut items = Vec::new();
        let mut shape = ResponseShape::default();
        for object in schema
            .types
            .keys()
            .filter(|object| schema.get_object(object).is_some() && schema.is_subtype(ty, object))
        {
            let (selection_set, below) = self.object(object, sets, pos);
            shape.merge(below);
            let condition =
                executor::TypeCondition { on: Positioned::new(async_graphql::Name::new(object), pos) };
            let fragment = executor::InlineFragment {
                type_condition: Some(Positioned::new(condition, pos)),
                directives: Vec::new(),
                selection_set: Positioned::new(selection_set, pos),
            };
            let fragment = executor::Selection::InlineFragment(Positioned::new(fragment, pos));
            items.push(Positioned::new(fragment, pos));
        }
        (executor::SelectionSet { items }, shape)
    }
}

fn selection(field: Positioned<executor::Field>) -> Positioned<executor::Selection> {
    let pos = field.pos;
    Positioned::new(executor::Selection::Field(field), pos)
}

/// Returns a field that keeps the executor from dropping an object without selections.
fn empty_object(pos: Pos) -> Positioned<executor::Field> {
    let name = |name| Positioned::new(async_graphql::Name::new(name), pos);
    let field = executor::Field {
        alias: Some(name(EMPTY_OBJECT)),
        name: name("__typename"),
        arguments: Vec::new(),
        directives: Vec::new(),
        selection_set: Positioned::default(),
    };
    Positioned::new(field, pos)
}

fn contains_variable(value: &ast::Value) -> bool {
    match value {
        ast::Value::Variable(_) => true,
        ast::Value::List(items) => items.iter().any(|item| contains_variable(item)),
        ast::Value::Object(fields) => fields.iter().any(|(_, value)| contains_variable(value)),
        _ => false,
    }
}
