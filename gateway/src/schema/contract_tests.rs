//! Tests of the schema text: `schema.graphql` in the root of the repository is up to date, it contains
//! everything that the public contract `tests/contract.graphql` requires, and everything in it has a
//! description.

use std::{collections::BTreeMap, path::PathBuf};

use async_graphql::SDLExportOptions;
use async_graphql_parser::{
    parse_schema,
    types::{FieldDefinition, InputValueDefinition, TypeKind, TypeSystemDefinition},
};

use super::{build, sdl};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The elements of a schema with their types: `Type.field`, `Type.field(argument)`, `enum Name.VALUE`,
/// `scalar Name`.
type Elements = BTreeMap<String, String>;

fn elements(text: &str) -> Elements {
    let mut elements = Elements::new();
    for definition in parse_schema(text).expect("the schema parses").definitions {
        let TypeSystemDefinition::Type(definition) = definition else { continue };
        let name = definition.node.name.node.to_string();
        match definition.node.kind {
            TypeKind::Scalar => _ = elements.insert(format!("scalar {name}"), String::new()),
            TypeKind::Object(object) => {
                object.fields.iter().for_each(|field| add_field(&mut elements, &name, &field.node));
                let keys =
                    definition.node.directives.iter().filter(|directive| directive.node.name.node == "key");
                keys.for_each(|_| _ = elements.insert(format!("key {name}"), String::new()));
            }
            TypeKind::InputObject(input) => {
                input.fields.iter().for_each(|field| add_value(&mut elements, &name, &field.node));
            }
            TypeKind::Enum(of) => {
                for value in of.values {
                    elements.insert(format!("enum {name}.{}", value.node.value.node), String::new());
                }
            }
            TypeKind::Interface(_) | TypeKind::Union(_) => {}
        }
    }
    elements
}

fn add_field(elements: &mut Elements, parent: &str, field: &FieldDefinition) {
    let path = format!("{parent}.{}", field.name.node);
    field.arguments.iter().for_each(|argument| add_value(elements, &path, &argument.node));
    elements.insert(path, field.ty.node.to_string());
}

fn add_value(elements: &mut Elements, parent: &str, value: &InputValueDefinition) {
    let default =
        value.default_value.as_ref().map_or_else(String::new, |default| format!(" = {}", default.node));
    elements.insert(format!("{parent}({})", value.name.node), format!("{}{default}", value.ty.node));
}

/// `UPDATE=1` writes the file.
#[test]
fn schema_graphql_is_up_to_date() {
    let path = root().join("schema.graphql");
    let sdl = sdl();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &sdl).expect("schema.graphql is writable");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == sdl, "schema.graphql is out of date; run: UPDATE=1 cargo test -p gateway schema");
}

#[test]
fn the_schema_contains_the_contract() {
    let contract =
        std::fs::read_to_string(root().join("tests/contract.graphql")).expect("the contract exists");
    let federated = build().finish().sdl_with_options(SDLExportOptions::new().federation());
    let schema = [elements(&sdl()), elements(&federated)].into_iter().flatten().collect::<Elements>();
    let contract = elements(&contract);
    assert!(contract.len() > 120, "the contract has only {} elements", contract.len());
    let missing: Vec<_> = contract.iter().filter(|(path, ty)| schema.get(*path) != Some(ty)).collect();
    assert!(missing.is_empty(), "the contract requires {missing:#?}");
}

#[test]
fn everything_has_a_description() {
    let undescribed: Vec<_> = parse_schema(sdl())
        .expect("the schema parses")
        .definitions
        .into_iter()
        .filter_map(|definition| match definition {
            TypeSystemDefinition::Type(definition) => Some(definition.node),
            _ => None,
        })
        .filter(|definition| !definition.name.node.starts_with('_'))
        .flat_map(|definition| {
            let name = definition.name.node.to_string();
            let mut bare = Vec::new();
            if definition.description.is_none() && !matches!(definition.kind, TypeKind::Scalar) {
                bare.push(name.clone());
            }
            let TypeKind::Object(object) = definition.kind else { return bare };
            let fields = object.fields.into_iter().filter(|field| field.node.description.is_none());
            let fields = fields.map(|field| format!("{name}.{}", field.node.name.node));
            bare.extend(fields.filter(|field| !field.contains("._")));
            bare
        })
        .collect();
    assert!(undescribed.is_empty(), "{undescribed:?}");
}
