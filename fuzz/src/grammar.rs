//! Generates documents from the grammar and the schema: mostly valid, and otherwise invalid in one place.

use std::{collections::BTreeMap, fmt::Write};

use async_graphql_parser::{
    parse_schema,
    types::{BaseType, FieldDefinition, Type, TypeKind, TypeSystemDefinition},
};
use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};

use crate::mutate;

/// Fields of the schema's object types.
pub struct Grammar(BTreeMap<String, Vec<FieldDefinition>>);

impl Grammar {
    /// Creates the grammar of the gateway's schema.
    ///
    /// # Panics
    /// If the SDL does not parse.
    pub fn new() -> Self {
        let sdl = gateway::fuzzing::build().finish().sdl();
        let schema = parse_schema(sdl).expect("the gateway's SDL is valid");
        let types = schema.definitions.into_iter().filter_map(|definition| match definition {
            TypeSystemDefinition::Type(definition) => Some(definition.node),
            _ => None,
        });
        let objects = types.filter_map(|definition| match definition.kind {
            TypeKind::Object(object) => {
                let fields = object.fields.into_iter().map(|field| field.node).collect();
                Some((definition.name.node.to_string(), fields))
            }
            _ => None,
        });
        Self(objects.collect())
    }

    /// Generates a document. Its variables may be undeclared.
    pub fn document(&self, random: &mut SmallRng) -> String {
        let mut text = String::new();
        let (kind, root) =
            *[("query", "Query"), ("mutation", "Mutation"), ("subscription", "Subscription"), ("", "Query")]
                .choose(random)
                .expect("the choices are not empty");
        text.push_str(kind);
        if !kind.is_empty() {
            text.push_str(mutate::one(random, &[" A", "", " B"]));
            text.push_str(mutate::one(
                random,
                &["", "", "($id: ID!, $n: Int = 3)", "($s: [String!], $x: RegisterInput)"],
            ));
        }
        self.selection(random, root, 5, &mut text);
        if random.random_bool(0.2) {
            let of = mutate::one(random, &["User", "Dialog", "Message", "Query", "Nothing"]);
            write!(text, " fragment F on {of} ").expect("writing to a string cannot fail");
            self.selection(random, of, 3, &mut text);
        }
        if random.random_bool(0.1) {
            text.push_str(" query B { __typename }");
        }
        text
    }

    fn selection(&self, random: &mut SmallRng, of: &str, depth: usize, text: &mut String) {
        text.push_str(" {");
        let none = Vec::new();
        let fields = self.0.get(of).unwrap_or(&none);
        for _ in 0..random.random_range(1..=4) {
            match (random.random_range(0..20), fields.choose(random)) {
                (0, _) => text.push_str(" ...F"),
                (1, _) => text.push_str(" __typename"),
                (2, _) if depth > 0 => {
                    write!(text, " ... on {of}").expect("writing to a string cannot fail");
                    self.selection(random, of, depth - 1, text);
                }
                (3, _) => introspection(random, text),
                (_, Some(field)) => self.field(random, field, depth, text),
                (_, None) => text.push_str(" id"),
            }
        }
        text.push_str(" }");
    }

    fn field(&self, random: &mut SmallRng, field: &FieldDefinition, depth: usize, text: &mut String) {
        let inner = base(&field.ty.node);
        let is_object = self.0.contains_key(inner);
        if is_object && depth == 0 {
            return text.push_str(" __typename");
        }
        text.push(' ');
        if random.random_bool(0.1) {
            text.push_str(mutate::one(random, &["a: ", "b: ", "id: "]));
        }
        text.push_str(&field.name.node);
        let arguments = field.arguments.iter().filter(|argument| {
            let wanted = !argument.node.ty.node.nullable;
            random.random_bool(if wanted { 0.97 } else { 0.4 })
        });
        let mut written: Vec<String> = Vec::new();
        for argument in arguments.collect::<Vec<_>>() {
            written.push(format!(
                "{}: {}",
                argument.node.name.node,
                literal(random, base(&argument.node.ty.node))
            ));
        }
        if !written.is_empty() {
            write!(text, "({})", written.join(", ")).expect("writing to a string cannot fail");
        }
        if random.random_bool(0.05) {
            text.push_str(mutate::one(random, &[" @include(if: true)", " @skip(if: $id)", " @nothing"]));
        }
        if is_object {
            self.selection(random, inner, depth - 1, text);
        }
    }
}

/// Generates an introspection field, often nested beyond the limit.
fn introspection(random: &mut SmallRng, text: &mut String) {
    let depth = random.random_range(0..8);
    let root = mutate::one(
        random,
        &["__schema { types", "__type(name: \"User\")", "_service { sdl", "_entities(representations: [])"],
    );
    write!(text, " {root} {{ name {} name {} }}", "ofType { ".repeat(depth), "}".repeat(depth))
        .expect("writing to a string cannot fail");
    if root.contains('{') {
        text.push('}');
    }
}

fn base(ty: &Type) -> &str {
    match &ty.base {
        BaseType::Named(name) => name,
        BaseType::List(inner) => base(inner),
    }
}

/// Generates a literal, mostly of this type.
fn literal(random: &mut SmallRng, of: &str) -> String {
    let any = [
        "1",
        "-1",
        "null",
        "true",
        "ENUM",
        "$id",
        "$n",
        "[1, [2]]",
        "{a: {b: 1}}",
        "\"\"\"block\"\"\"",
        "1e99",
        "2147483648",
    ];
    if random.random_bool(0.1) {
        return mutate::one(random, &any).to_owned();
    }
    match of {
        "Int" => random.random_range(-2..150).to_string(),
        "Boolean" => mutate::one(random, &["true", "false"]).to_owned(),
        "ID" | "String" => quoted(random),
        "RegisterInput" | "LoginInput" => {
            let [login, password, device] = [quoted(random), quoted(random), quoted(random)];
            format!("{{login: {login}, password: {password}, deviceName: {device}}}")
        }
        "CreateDialogInput" => format!("{{participantIds: [{}, {}]}}", quoted(random), quoted(random)),
        "SendMessageInput" => format!("{{dialogId: {}, text: {}}}", quoted(random), quoted(random)),
        "MarkReadInput" => format!("{{dialogId: {}}}", quoted(random)),
        _ => mutate::one(random, &any).to_owned(),
    }
}

fn quoted(random: &mut SmallRng) -> String {
    let id = "\"0192e4b2-7c11-7a3e-9d5a-0f1e2d3c4b5a\"";
    match random.random_range(0..4) {
        0 => id.to_owned(),
        1 => mutate::one(random, &["\"1-7\"", "\"0\"", "\"9-9223372036854775807\"", "$id", "$s"]).to_owned(),
        _ => format!("{:?}", mutate::string(random)),
    }
}
