//! The schema's text: `schema.graphql` at the root of the repository is what the gateway says, and it holds everything of
//! the public contract, `tests/contract.graphql`.

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

/// Every line that a schema promises: `Type.field(argument: Type = default): Type`, `enum Name.VALUE`, `scalar Name`.
type Promises = BTreeMap<String, String>;

fn promises(text: &str) -> Promises {
    let mut promises = Promises::new();
    for definition in parse_schema(text).expect("a schema").definitions {
        let TypeSystemDefinition::Type(definition) = definition else { continue };
        let name = definition.node.name.node.to_string();
        match definition.node.kind {
            TypeKind::Scalar => _ = promises.insert(format!("scalar {name}"), String::new()),
            TypeKind::Object(object) => {
                object.fields.iter().for_each(|field| add_field(&mut promises, &name, &field.node));
                let keys =
                    definition.node.directives.iter().filter(|directive| directive.node.name.node == "key");
                keys.for_each(|_| _ = promises.insert(format!("key {name}"), String::new()));
            }
            TypeKind::InputObject(input) => {
                input.fields.iter().for_each(|field| add_value(&mut promises, &name, &field.node));
            }
            TypeKind::Enum(of) => {
                for value in of.values {
                    promises.insert(format!("enum {name}.{}", value.node.value.node), String::new());
                }
            }
            TypeKind::Interface(_) | TypeKind::Union(_) => {}
        }
    }
    promises
}

fn add_field(promises: &mut Promises, parent: &str, field: &FieldDefinition) {
    let path = format!("{parent}.{}", field.name.node);
    field.arguments.iter().for_each(|argument| add_value(promises, &path, &argument.node));
    promises.insert(path, field.ty.node.to_string());
}

fn add_value(promises: &mut Promises, parent: &str, value: &InputValueDefinition) {
    let default =
        value.default_value.as_ref().map_or_else(String::new, |default| format!(" = {}", default.node));
    promises.insert(format!("{parent}({})", value.name.node), format!("{}{default}", value.ty.node));
}

#[test]
fn the_schema_is_written_down() {
    let (path, sdl) = (root().join("schema.graphql"), sdl());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &sdl).expect("written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == sdl,
        "schema.graphql is not what the gateway says; run: UPDATE=1 cargo test -p gateway schema"
    );
}

#[test]
fn the_schema_holds_the_contract() {
    let contract = std::fs::read_to_string(root().join("tests/contract.graphql")).expect("the contract");
    let federated = build().finish().sdl_with_options(SDLExportOptions::new().federation());
    let ours = [promises(&sdl()), promises(&federated)].into_iter().flatten().collect::<Promises>();
    let contract = promises(&contract);
    assert!(contract.len() > 120, "the contract has been read: {}", contract.len());
    let missing: Vec<_> = contract.iter().filter(|(path, ty)| ours.get(*path) != Some(ty)).collect();
    assert!(missing.is_empty(), "the contract promises {missing:#?}");
}

#[test]
fn everything_has_a_description() {
    let undescribed: Vec<_> = parse_schema(sdl())
        .expect("a schema")
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
