//! Response shape: the response names of an operation in their order, and which of them are nullable.
//!
//! The executor leaves failed fields out and writes fields in the order of their completion. The shape
//! corrects both, as sections 6.4.4 and 7.2.2 of the GraphQL specification demand: fields are in the
//! order of the document, a failed field is null, and if its type is non-null, its parent is.

use std::collections::HashMap;

use async_graphql::{Name, PathSegment, Positioned, Value, indexmap::IndexMap};
use async_graphql_parser::{
    parse_schema,
    types::{
        BaseType, ExecutableDocument, FragmentDefinition, OperationDefinition, OperationType, Selection,
        SelectionSet, Type, TypeKind, TypeSystemDefinition,
    },
};

/// Field types of the schema's object types.
#[derive(Debug, Default)]
pub struct SchemaTypes(HashMap<String, HashMap<String, Type>>);

impl SchemaTypes {
    /// Parses a schema in the schema definition language.
    ///
    /// # Panics
    /// If the text is not a schema.
    pub fn parse(sdl: &str) -> Self {
        let document = parse_schema(sdl).expect("the SDL that the schema exports parses");
        let mut types = HashMap::new();
        for definition in document.definitions {
            let TypeSystemDefinition::Type(definition) = definition else { continue };
            let TypeKind::Object(object) = definition.node.kind else { continue };
            let fields =
                object.fields.into_iter().map(|field| (field.node.name.node.to_string(), field.node.ty.node));
            types.insert(definition.node.name.node.to_string(), fields.collect());
        }
        Self(types)
    }

    /// Returns the type of a field. An unknown field, as those of introspection are, is nullable.
    fn field(&self, parent: &str, name: &str) -> Type {
        let field = self.0.get(parent).and_then(|fields| fields.get(name));
        field.cloned().unwrap_or_else(|| Type { base: BaseType::Named(Name::new("")), nullable: true })
    }
}

/// Response names of an object, in the order of the document.
#[derive(Debug, Default)]
pub struct ResponseShape(IndexMap<Name, Field>);

#[derive(Debug)]
struct Field {
    ty: Type,
    shape: ResponseShape,
}

type Fragments = HashMap<Name, Positioned<FragmentDefinition>>;

impl ResponseShape {
    /// Computes the shape of an operation. Its document must be within the limits, since fragments are
    /// expanded.
    pub fn new(types: &SchemaTypes, document: &ExecutableDocument, operation: &OperationDefinition) -> Self {
        let root = match operation.ty {
            OperationType::Query => "Query",
            OperationType::Mutation => "Mutation",
            OperationType::Subscription => "Subscription",
        };
        let mut shape = Self::default();
        shape.add(types, &document.fragments, root, &operation.selection_set.node);
        shape
    }

    fn add(&mut self, types: &SchemaTypes, fragments: &Fragments, parent: &str, set: &SelectionSet) {
        for selection in &set.items {
            match &selection.node {
                Selection::Field(field) => {
                    let field = &field.node;
                    let key = field.response_key().node.clone();
                    let entry = self.0.entry(key).or_insert_with(|| {
                        let ty = types.field(parent, &field.name.node);
                        Field { ty, shape: Self::default() }
                    });
                    let name = item_type_name(&entry.ty.base).to_owned();
                    entry.shape.add(types, fragments, &name, &field.selection_set.node);
                }
                Selection::InlineFragment(fragment) => {
                    let condition = fragment.node.type_condition.as_ref();
                    let parent = condition.map_or(parent, |condition| condition.node.on.node.as_str());
                    self.add(types, fragments, parent, &fragment.node.selection_set.node);
                }
                Selection::FragmentSpread(spread) => {
                    let Some(fragment) = fragments.get(&spread.node.fragment_name.node) else { continue };
                    let parent = fragment.node.type_condition.node.on.node.as_str();
                    self.add(types, fragments, parent, &fragment.node.selection_set.node);
                }
            }
        }
    }

    /// Returns true if a null at this path makes the whole root field null: every type between the two
    /// is non-null.
    pub fn nulls_root_field(&self, path: &[PathSegment]) -> bool {
        let Some((PathSegment::Field(root), below)) = path.split_first() else { return false };
        let Some(mut field) = self.0.get(root.as_str()) else { return false };
        let mut ty = &field.ty;
        for segment in below {
            ty = match (segment, &ty.base) {
                (PathSegment::Index(_), BaseType::List(item)) => item.as_ref(),
                (PathSegment::Field(key), _) => match field.shape.0.get(key.as_str()) {
                    Some(child) => {
                        field = child;
                        &child.ty
                    }
                    None => return false,
                },
                (PathSegment::Index(_), BaseType::Named(_)) => return false,
            };
            if ty.nullable {
                return false;
            }
        }
        true
    }

    /// Corrects the data of an executed operation. `failed` are the paths of its errors.
    pub fn correct(&self, data: &mut Value, failed: &[&[PathSegment]]) {
        let root = Type { base: BaseType::Named(Name::new("")), nullable: true };
        for path in failed.iter().filter(|path| !path.is_empty()) {
            insert_null(data, path);
        }
        for path in failed.iter().filter(|path| !path.is_empty()) {
            self.propagate_null(data, &root, path);
        }
        self.sort(data);
    }

    /// Sets the value at a path to null, and each enclosing value whose type is non-null. Returns true
    /// if the null passes on to the parent.
    fn propagate_null(&self, value: &mut Value, ty: &Type, path: &[PathSegment]) -> bool {
        let is_null = match (path.split_first(), &mut *value) {
            (None, _) | (Some(_), Value::Null) => true,
            (Some((PathSegment::Field(key), rest)), Value::Object(object)) => {
                match (self.0.get(key.as_str()), object.get_mut(key.as_str())) {
                    (Some(field), Some(child)) => field.shape.propagate_null(child, &field.ty, rest),
                    _ => false,
                }
            }
            (Some((PathSegment::Index(index), rest)), Value::List(list)) => {
                match (&ty.base, list.get_mut(*index)) {
                    (BaseType::List(item), Some(child)) => self.propagate_null(child, item, rest),
                    _ => false,
                }
            }
            _ => false,
        };
        if is_null {
            *value = Value::Null;
        }
        is_null && !ty.nullable
    }

    fn sort(&self, value: &mut Value) {
        match value {
            Value::List(list) => list.iter_mut().for_each(|item| self.sort(item)),
            Value::Object(object) => {
                let position = |key: &Name| self.0.get_index_of(key).unwrap_or(usize::MAX);
                if !object.keys().is_sorted_by_key(position) {
                    object.sort_by_cached_key(|key, _| position(key));
                }
                for (key, child) in object {
                    if let Some(field) = self.0.get(key).filter(|field| !field.shape.0.is_empty()) {
                        field.shape.sort(child);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Inserts a null for a failed field. The executor replaces an object whose fields all failed by null:
/// it is created again.
fn insert_null(value: &mut Value, path: &[PathSegment]) {
    match path.split_first() {
        Some((PathSegment::Field(key), rest)) => {
            if *value == Value::Null {
                *value = Value::Object(IndexMap::new());
            }
            let Value::Object(object) = value else { return };
            insert_null(object.entry(Name::new(key)).or_insert(Value::Null), rest);
        }
        Some((PathSegment::Index(index), rest)) => {
            let Value::List(list) = value else { return };
            if let Some(child) = list.get_mut(*index) {
                insert_null(child, rest);
            }
        }
        None => {}
    }
}

/// Returns the name of a type without its list wrappers.
fn item_type_name(base: &BaseType) -> &str {
    match base {
        BaseType::Named(name) => name,
        BaseType::List(item) => item_type_name(&item.base),
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::value;
    use async_graphql_parser::parse_query;

    use super::*;

    const SCHEMA: &str = "type Query { a: A, b: B!, list: [A!], loose: [A]! }
        type A { id: ID!, name: String, b: B! } type B { c: Int! }";

    fn corrected(query: &str, mut data: Value, failed: &[&[&str]]) -> String {
        let document = parse_query(query).expect("a document");
        let (_, operation) = document.operations.iter().next().expect("an operation");
        let shape = ResponseShape::new(&SchemaTypes::parse(SCHEMA), &document, &operation.node);
        let segment = |text: &&str| match text.parse() {
            Ok(index) => PathSegment::Index(index),
            Err(_) => PathSegment::Field((*text).to_owned()),
        };
        let paths: Vec<Vec<_>> = failed.iter().map(|path| path.iter().map(segment).collect()).collect();
        let failed: Vec<_> = paths.iter().map(Vec::as_slice).collect();
        shape.correct(&mut data, &failed);
        serde_json::to_string(&data).expect("JSON")
    }

    #[test]
    fn fields_are_in_the_order_of_the_document() {
        let query = "{ list { x: id ...N } a { name id } } fragment N on A { name b { c } }";
        let data = value!({
            "a": { "id": 1, "name": "n" },
            "list": [{ "b": { "c": 1 }, "name": "m", "x": 2 }, null],
        });
        let expected = r#"{"list":[{"x":2,"name":"m","b":{"c":1}},null],"a":{"name":"n","id":1}}"#;
        assert_eq!(corrected(query, data, &[]), expected);
    }

    #[test]
    fn a_failed_nullable_field_is_null() {
        let query = "{ a { id name } list { id } }";
        assert_eq!(corrected(query, value!({ "list": [] }), &[&["a"]]), r#"{"a":null,"list":[]}"#);
        assert_eq!(corrected(query, Value::Null, &[&["a"], &["list"]]), r#"{"a":null,"list":null}"#);
        let data = value!({ "list": [], "a": { "id": 1 } });
        assert_eq!(corrected(query, data, &[&["a", "name"]]), r#"{"a":{"id":1,"name":null},"list":[]}"#);
        let emptied = value!({ "a": null, "list": [] });
        let failed = [&["a", "name"][..], &["a", "x"]];
        let query = "{ a { name x: name } list { id } }";
        assert_eq!(corrected(query, emptied, &failed), r#"{"a":{"name":null,"x":null},"list":[]}"#);
    }

    #[test]
    fn a_failed_non_null_field_makes_its_parent_null() {
        let query = "{ a { name b { c } } list { id b { c } } loose { id } b { c } }";
        let data = || {
            value!({
                "a": { "name": "n", "b": { "c": 1 } },
                "list": [{ "id": 1, "b": { "c": 1 } }, { "id": 2, "b": { "c": 2 } }],
                "loose": [{ "id": 1 }, {}],
                "b": { "c": 1 },
            })
        };
        let expect = |failed: &[&str], key: &str, expected: &str| {
            let answer: serde_json::Value =
                serde_json::from_str(&corrected(query, data(), &[failed])).expect("JSON");
            let seen = if key.is_empty() { &answer } else { &answer[key] };
            assert_eq!(seen.to_string(), expected, "{failed:?}");
        };
        expect(&["a", "b", "c"], "a", "null");
        expect(&["list", "1", "b", "c"], "list", "null");
        expect(&["loose", "1", "id"], "loose", r#"[{"id":1},null]"#);
        expect(&["b", "c"], "", "null");
        expect(&["b"], "", "null");
    }

    #[test]
    fn a_null_passes_through_non_null_types_to_its_root_field() {
        let query = "{ x: a { name b { c } } list { b { c } } loose { b { c } } b { c } }";
        let document = parse_query(query).expect("a document");
        let (_, operation) = document.operations.iter().next().expect("an operation");
        let shape = ResponseShape::new(&SchemaTypes::parse(SCHEMA), &document, &operation.node);
        let field = |key: &str| PathSegment::Field(key.to_owned());
        let takes = |path: &[PathSegment]| shape.nulls_root_field(path);
        assert!(takes(&[field("x"), field("b"), field("c")]) && takes(&[field("b")]));
        assert!(takes(&[field("list"), PathSegment::Index(3), field("b")]));
        assert!(!takes(&[field("x"), field("name")]), "the field itself is nullable");
        assert!(
            !takes(&[field("loose"), PathSegment::Index(0), field("b"), field("c")]),
            "its list item is nullable"
        );
        assert!(!takes(&[field("a"), field("b")]) && !takes(&[]), "the field does not exist");
    }

    #[test]
    fn siblings_of_a_failed_field_do_not_restore_its_parent() {
        let query = "{ a { id name b { c } } list { id b { c } } }";
        let failed =
            [&["a", "id"][..], &["a", "b", "c"], &["a", "name"], &["list", "0", "id"], &["list", "1", "b"]];
        let data = value!({ "a": { "b": null }, "list": [{ "b": { "c": 1 } }, { "id": 2 }] });
        assert_eq!(corrected(query, data, &failed), r#"{"a":null,"list":null}"#);
    }

    #[test]
    fn introspection_is_not_changed() {
        let query = "{ __schema { types { name kind } } __typename }";
        let data =
            value!({ "__schema": { "types": [{ "name": "A", "kind": "OBJECT" }] }, "__typename": "Query" });
        let expected = r#"{"__schema":{"types":[{"name":"A","kind":"OBJECT"}]},"__typename":"Query"}"#;
        assert_eq!(corrected(query, data, &[]), expected);
    }
}
