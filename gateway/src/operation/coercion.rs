//! Coercion of input values by section 3 of the GraphQL specification: the values of variables, and literals.
//!
//! The coercion of `apollo-compiler` does not accept `1.0` as an `Int`, and does not coerce defaults.

use apollo_compiler::{
    Node, Schema,
    ast::{self, Type, VariableDefinition},
    schema::{ExtendedType, InputObjectType},
};
use async_graphql::{Name, Number, Value as ConstValue, Variables, indexmap::IndexMap};
use async_graphql_value::Value;

use crate::error::{Code, Error};

/// Largest size of an operation's variables as JSON, in bytes.
pub const VARIABLES_MAX_BYTES: usize = 256 * 1024;

/// Coerces the variables of an operation. A variable without a value and a default stays absent; undeclared
/// variables are dropped.
///
/// # Errors
/// GRAPHQL_VALIDATION_FAILED if a value does not have the variable's type. The message names the place, not
/// the value, which may be secret.
pub fn variables(
    schema: &Schema,
    definitions: &[Node<VariableDefinition>],
    given: &Variables,
) -> Result<Variables, Error> {
    let mut coerced = Variables::default();
    for definition in definitions {
        let VariableDefinition { name, ty, default_value, .. } = &**definition;
        let given = given.get(name.as_str());
        if let Some(value) = coerce_or_default(schema, ty, given, default_value, &Place::Variable(name))? {
            coerced.insert(Name::new(name), value);
        }
    }
    Ok(coerced)
}

/// Coerces the value of a variable or an input field, or its default if no value is given. Returns `None`
/// if there is neither.
fn coerce_or_default(
    schema: &Schema,
    ty: &Type,
    given: Option<&ConstValue>,
    default: &Option<Node<ast::Value>>,
    place: &Place<'_>,
) -> Result<Option<ConstValue>, Error> {
    match (given, default) {
        (Some(given), _) => coerce(schema, ty, given, place).map(Some),
        (None, Some(default)) => Ok(Some(constant(literal(schema, ty, default)))),
        (None, None) if ty.is_non_null() => Err(place.required(ty)),
        (None, None) => Ok(None),
    }
}

/// Place of a value in the variables, for error messages.
enum Place<'a> {
    Variable(&'a str),
    Field(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "${name}"),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

impl Place<'_> {
    fn required(&self, ty: &Type) -> Error {
        self.error(&format!("of type \"{ty}\" is required"))
    }

    fn wrong(&self, ty: &str) -> Error {
        self.error(&format!("is not a value of type \"{ty}\""))
    }

    fn error(&self, what: &str) -> Error {
        Error::new(Code::GraphqlValidationFailed, format!("variable \"{self}\" {what}"))
    }
}

fn coerce(schema: &Schema, ty: &Type, value: &ConstValue, place: &Place<'_>) -> Result<ConstValue, Error> {
    if *value == ConstValue::Null {
        return if ty.is_non_null() { Err(place.required(ty)) } else { Ok(ConstValue::Null) };
    }
    let named = match ty {
        Type::List(item) | Type::NonNullList(item) => {
            let ConstValue::List(items) = value else {
                return Ok(ConstValue::List(vec![coerce(schema, item, value, place)?]));
            };
            let items = items.iter().enumerate();
            let items = items.map(|(index, value)| coerce(schema, item, value, &Place::Item(place, index)));
            return items.collect::<Result<_, _>>().map(ConstValue::List);
        }
        Type::Named(named) | Type::NonNullNamed(named) => named,
    };
    let coerced = match schema.types.get(named) {
        Some(ExtendedType::InputObject(object)) => return coerce_object(schema, object, value, place),
        Some(ExtendedType::Enum(definition)) => match value {
            ConstValue::String(text) if definition.values.contains_key(text.as_str()) => {
                Some(ConstValue::Enum(Name::new(text)))
            }
            _ => None,
        },
        _ => coerce_scalar(named, value),
    };
    coerced.ok_or_else(|| place.wrong(named))
}

fn coerce_scalar(scalar: &str, value: &ConstValue) -> Option<ConstValue> {
    match (scalar, value) {
        ("Int", ConstValue::Number(number)) => int(number).map(ConstValue::from),
        ("Float", ConstValue::Number(number)) => number.as_f64().map(ConstValue::from),
        ("String", ConstValue::String(_))
        | ("Boolean", ConstValue::Boolean(_))
        | ("ID", ConstValue::String(_)) => Some(value.clone()),
        ("ID", ConstValue::Number(number)) => integer(number).map(ConstValue::String),
        ("Int" | "Float" | "String" | "Boolean" | "ID", _) => None,
        // A custom scalar checks its values itself.
        _ => Some(value.clone()),
    }
}

/// Returns a number that is an `Int`: `1.0` is one.
fn int(number: &Number) -> Option<i32> {
    let whole = number
        .as_i64()
        .or_else(|| number.as_f64().filter(|float| float.fract() == 0.0).map(|float| float as i64));
    whole.and_then(|whole| i32::try_from(whole).ok())
}

/// Returns the digits of a whole number.
fn integer(number: &Number) -> Option<String> {
    match number.as_f64() {
        Some(float) if number.is_f64() => (float.fract() == 0.0).then(|| format!("{float}")),
        _ => Some(number.to_string()),
    }
}

fn coerce_object(
    schema: &Schema,
    definition: &InputObjectType,
    value: &ConstValue,
    place: &Place<'_>,
) -> Result<ConstValue, Error> {
    let ConstValue::Object(given) = value else { return Err(place.wrong(&definition.name)) };
    if let Some(unknown) = given.keys().find(|name| !definition.fields.contains_key(name.as_str())) {
        let shown: String = unknown.chars().take(64).collect();
        return Err(place.error(&format!("has no field \"{shown}\" in type \"{}\"", definition.name)));
    }
    let mut coerced = IndexMap::new();
    for (name, field) in &definition.fields {
        let given = given.get(name.as_str());
        let place = Place::Field(place, name);
        if let Some(value) = coerce_or_default(schema, &field.ty, given, &field.default_value, &place)? {
            coerced.insert(Name::new(name), value);
        }
    }
    Ok(ConstValue::Object(coerced))
}

/// Coerces a literal of a valid document. Its variables stay.
pub fn literal(schema: &Schema, ty: &Type, value: &ast::Value) -> Value {
    if matches!(value, ast::Value::Variable(_) | ast::Value::Null) {
        return untyped(value);
    }
    match ty {
        Type::List(item) | Type::NonNullList(item) => match value {
            ast::Value::List(items) => {
                Value::List(items.iter().map(|value| literal(schema, item, value)).collect())
            }
            value => Value::List(vec![literal(schema, item, value)]),
        },
        Type::Named(named) | Type::NonNullNamed(named) => match (schema.types.get(named), value) {
            (Some(ExtendedType::InputObject(definition)), ast::Value::Object(given)) => {
                literal_object(schema, definition, given)
            }
            (Some(ExtendedType::Scalar(_)), ast::Value::Int(int)) if named == "ID" => {
                Value::String(int.as_str().to_owned())
            }
            (Some(ExtendedType::Scalar(_)), ast::Value::Int(int)) if named == "Float" => {
                int.as_str().parse().ok().and_then(Number::from_f64).map_or(Value::Null, Value::Number)
            }
            _ => untyped(value),
        },
    }
}

fn literal_object(
    schema: &Schema,
    definition: &InputObjectType,
    given: &[(apollo_compiler::Name, Node<ast::Value>)],
) -> Value {
    let mut coerced = IndexMap::new();
    for (name, field) in &definition.fields {
        let value = given.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        if let Some(value) = value.or(field.default_value.as_ref()) {
            coerced.insert(Name::new(name), literal(schema, &field.ty, value));
        }
    }
    Value::Object(coerced)
}

/// Converts a literal as it is written.
fn untyped(value: &ast::Value) -> Value {
    match value {
        ast::Value::Null => Value::Null,
        ast::Value::Variable(name) => Value::Variable(Name::new(name)),
        ast::Value::Enum(name) => Value::Enum(Name::new(name)),
        ast::Value::String(text) => Value::String(text.clone()),
        ast::Value::Boolean(boolean) => Value::Boolean(*boolean),
        ast::Value::Int(int) => number(int.as_str()),
        ast::Value::Float(float) => number(float.as_str()),
        ast::Value::List(items) => Value::List(items.iter().map(|item| untyped(item)).collect()),
        ast::Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (Name::new(name), untyped(value))).collect())
        }
    }
}

fn number(text: &str) -> Value {
    if let Ok(whole) = text.parse::<i64>() {
        return Value::Number(whole.into());
    }
    text.parse().ok().and_then(Number::from_f64).map_or(Value::Null, Value::Number)
}

/// Replaces the variables of a value. Returns `None` for an absent variable. In a list, an absent variable is
/// null; a field of an input object with one is left out.
pub fn resolved(value: Value, variables: &Variables) -> Option<Value> {
    Some(match value {
        Value::Variable(name) => variables.get(&name)?.clone().into(),
        Value::List(items) => {
            let resolved = items.into_iter().map(|item| resolved(item, variables).unwrap_or_default());
            Value::List(resolved.collect())
        }
        Value::Object(fields) => {
            let fields = fields.into_iter();
            Value::Object(
                fields.filter_map(|(name, value)| Some((name, resolved(value, variables)?))).collect(),
            )
        }
        constant => constant,
    })
}

/// Converts a value without variables.
fn constant(value: Value) -> ConstValue {
    value.into_const().unwrap_or_default()
}
