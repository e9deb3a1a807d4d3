//! Variables of an operation: each declared variable has a value, a default, or may be null. Their types
//! are checked by the validation, at the places where they are used.

use async_graphql::{Value, Variables};
use async_graphql_parser::types::OperationDefinition;

use crate::error::{Code, Error};

/// Largest size of an operation's variables as JSON, in bytes.
pub const VARIABLES_MAX_BYTES: usize = 256 * 1024;

/// Returns the declared variables with their defaults filled in. Undeclared variables are dropped.
///
/// # Errors
/// GRAPHQL_VALIDATION_FAILED if a required variable is absent or null.
pub fn complete(operation: &OperationDefinition, given: &Variables) -> Result<Variables, Error> {
    let mut variables = Variables::default();
    for definition in &operation.variable_definitions {
        let definition = &definition.node;
        let name = &definition.name.node;
        let value = given.get(name).or(definition.default_value()).cloned();
        let value = value.unwrap_or_default();
        if value == Value::Null && !definition.var_type.node.nullable {
            let message = format!("variable \"${name}\" of type \"{}\" is required", definition.var_type);
            return Err(Error::new(Code::GraphqlValidationFailed, message));
        }
        variables.insert(name.clone(), value);
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use async_graphql::value;
    use async_graphql_parser::parse_query;

    use super::*;

    fn completed(declared: &str, given: Value) -> Result<Value, Error> {
        let document = parse_query(format!("query Q({declared}) {{ a }}")).expect("a document");
        let (_, operation) = document.operations.iter().next().expect("an operation");
        complete(&operation.node, &Variables::from_value(given)).map(Variables::into_value)
    }

    #[test]
    fn an_absent_variable_has_its_default_or_is_null() {
        let declared = "$a: Int!, $b: Int = 5, $c: Int, $d: Int = 6";
        let given = value!({ "a": 1, "d": null, "else": 7 });
        assert_eq!(completed(declared, given), Ok(value!({ "a": 1, "b": 5, "c": null, "d": null })));
    }

    #[test]
    fn a_missing_required_variable_is_an_error() {
        for given in [value!({}), value!({ "a": null })] {
            let error = completed("$a: [ID!]!", given).expect_err("rejected");
            assert_eq!(error.code(), Code::GraphqlValidationFailed);
            assert_eq!(error.message(), "variable \"$a\" of type \"[ID!]!\" is required");
        }
    }
}
