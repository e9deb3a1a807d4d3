//! Response shape: the response names of an operation in their order, and which of them are nullable.
//!
//! The executor leaves failed fields out and writes fields in the order of their completion. The shape
//! corrects both, as sections 6.4.4 and 7.2.2 of the GraphQL specification demand: fields are in the
//! order of the document, a failed field is null, and if its type is non-null, its parent is.

use apollo_compiler::ast::Type;
use async_graphql::{
    Name, PathSegment, Value,
    indexmap::{IndexMap, map::Entry},
};

/// Response name of a field that the executor runs for an object without selections. It is not a name of
/// GraphQL, so that no client uses it.
pub const EMPTY_OBJECT: &str = " ";

/// Response names of an object, in the order of the document.
#[derive(Debug, Default)]
pub struct ResponseShape {
    fields: IndexMap<Name, Field>,
    /// True if an object may have no selections. It has the field [`EMPTY_OBJECT`].
    pub has_empty_objects: bool,
}

#[derive(Debug)]
struct Field {
    ty: Type,
    shape: ResponseShape,
}

impl ResponseShape {
    /// Appends a field. One with a known response name is merged.
    pub fn insert(&mut self, response_name: Name, ty: Type, shape: Self) {
        match self.fields.entry(response_name) {
            Entry::Occupied(mut known) => known.get_mut().shape.merge(shape),
            Entry::Vacant(new) => {
                new.insert(Field { ty, shape });
            }
        }
    }

    /// Adds the fields of another possible type of the same value.
    pub fn merge(&mut self, other: Self) {
        self.has_empty_objects |= other.has_empty_objects;
        for (response_name, field) in other.fields {
            self.insert(response_name, field.ty, field.shape);
        }
    }

    /// Returns true if a null at this path makes the whole root field null: every type between the two
    /// is non-null.
    pub fn nulls_root_field(&self, path: &[PathSegment]) -> bool {
        let Some((PathSegment::Field(root), below)) = path.split_first() else { return false };
        let Some(mut field) = self.fields.get(root.as_str()) else { return false };
        let mut ty = &field.ty;
        for segment in below {
            ty = match (segment, ty) {
                (PathSegment::Index(_), Type::List(item) | Type::NonNullList(item)) => item.as_ref(),
                (PathSegment::Field(key), _) => match field.shape.fields.get(key.as_str()) {
                    Some(child) => {
                        field = child;
                        &child.ty
                    }
                    None => return false,
                },
                (PathSegment::Index(_), _) => return false,
            };
            if !ty.is_non_null() {
                return false;
            }
        }
        true
    }

    /// Corrects the data of an executed operation. `failed` are the paths of its errors.
    pub fn correct(&self, data: &mut Value, failed: &[&[PathSegment]]) {
        let root = Type::Named(apollo_compiler::name!("Root"));
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
                match (self.fields.get(key.as_str()), object.get_mut(key.as_str())) {
                    (Some(field), Some(child)) => field.shape.propagate_null(child, &field.ty, rest),
                    _ => false,
                }
            }
            (Some((PathSegment::Index(index), rest)), Value::List(list)) => {
                match (ty, list.get_mut(*index)) {
                    (Type::List(item) | Type::NonNullList(item), Some(child)) => {
                        self.propagate_null(child, item, rest)
                    }
                    _ => false,
                }
            }
            _ => false,
        };
        if is_null {
            *value = Value::Null;
        }
        is_null && ty.is_non_null()
    }

    fn is_leaf(&self) -> bool {
        self.fields.is_empty() && !self.has_empty_objects
    }

    /// Sorts the fields, and removes the field that stands for an object without selections.
    fn sort(&self, value: &mut Value) {
        match value {
            Value::List(list) => list.iter_mut().for_each(|item| self.sort(item)),
            Value::Object(object) => {
                if self.has_empty_objects {
                    object.shift_remove(EMPTY_OBJECT);
                }
                let position = |key: &Name| self.fields.get_index_of(key).unwrap_or(usize::MAX);
                if !object.keys().is_sorted_by_key(position) {
                    object.sort_by_cached_key(|key, _| position(key));
                }
                for (key, child) in object {
                    if let Some(field) = self.fields.get(key).filter(|field| !field.shape.is_leaf()) {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use apollo_compiler::ExecutableDocument;
    use async_graphql::{Variables, value};

    use super::*;
    use crate::operation::{normalization::normalize, validation::parse_schema};

    const SCHEMA: &str = "type Query { a: A, b: B!, list: [A!], loose: [A]! }
        type A { id: ID!, name: String, b: B! } type B { c: Int! }";

    fn shape_of(query: &str) -> Arc<ResponseShape> {
        let schema = parse_schema(SCHEMA);
        let document = ExecutableDocument::parse_and_validate(&schema, query, "test").expect("a document");
        let operation = document.operations.get(None).expect("an operation");
        normalize(&schema, &document, operation, &Variables::default()).shape
    }

    fn corrected(query: &str, mut data: Value, failed: &[&[&str]]) -> String {
        let shape = shape_of(query);
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
        let shape = shape_of(query);
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
