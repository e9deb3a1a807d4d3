//! Costs of an operation whose arguments are variables, by the sizes of their values. The cost of a page
//! depends on its size and not on where it starts, so that few entries answer most requests.

use std::{collections::HashMap, fmt::Write};

use async_graphql::{Value, Variables};
use parking_lot::Mutex;

/// Most entries of one operation. Further costs are computed for each request.
const ENTRIES_MAX: usize = 32;
/// Longest key, in bytes. The cost of larger variables is computed for each request.
const KEY_MAX_BYTES: usize = 256;

/// Known costs of one operation.
#[derive(Debug, Default)]
pub struct KnownCosts(Mutex<HashMap<String, usize>>);

impl KnownCosts {
    /// Returns the cost with these values of the variables. Runs `compute` if it is not known.
    pub fn get(&self, variables: &Variables, compute: impl FnOnce() -> usize) -> usize {
        let mut key = String::new();
        // With the names: a variable may be absent.
        let is_short = variables.iter().all(|(name, value)| write_field(&mut key, name, value));
        if !is_short {
            return compute();
        }
        if let Some(known) = self.0.lock().get(&key) {
            return *known;
        }
        let cost = compute();
        let mut known = self.0.lock();
        if known.len() < ENTRIES_MAX {
            known.insert(key, cost);
        }
        cost
    }
}

/// Appends what a cost can depend on: numbers, the lengths of lists and the presence of fields, but no text.
/// Returns false if the key is too long.
fn write_size(key: &mut String, value: &Value) -> bool {
    if key.len() >= KEY_MAX_BYTES {
        return false;
    }
    match value {
        Value::Number(number) => write!(key, "{number} ").is_ok(),
        Value::Boolean(boolean) => write!(key, "{boolean} ").is_ok(),
        Value::Enum(name) => write!(key, "{name} ").is_ok(),
        Value::Null => write!(key, "null ").is_ok(),
        Value::String(_) | Value::Binary(_) => write!(key, "\" ").is_ok(),
        Value::List(items) => {
            write!(key, "[{} ", items.len()).is_ok() && items.iter().all(|it| write_size(key, it))
        }
        Value::Object(fields) => {
            write!(key, "{{{} ", fields.len()).is_ok()
                && fields.iter().all(|(name, value)| write_field(key, name, value))
        }
    }
}

fn write_field(key: &mut String, name: &str, value: &Value) -> bool {
    write!(key, "{name}:").is_ok() && write_size(key, value)
}

#[cfg(test)]
mod tests {
    use async_graphql::value;

    use super::*;

    fn is_known(costs: &KnownCosts, variables: Value) -> bool {
        let mut is_known = true;
        costs.get(&Variables::from_value(variables), || {
            is_known = false;
            1
        });
        is_known
    }

    #[test]
    fn a_cost_is_known_by_numbers_and_lengths_and_not_by_texts() {
        let costs = KnownCosts::default();
        let variables = [
            value!({ "a": 1, "b": "x" }),
            value!({ "a": 2, "b": "x" }),
            value!({ "a": null, "b": "x" }),
            value!({ "a": [1, 2], "b": { "c": true } }),
            value!({ "a": [1], "b": { "c": true } }),
            value!({ "a": [1], "b": { "d": true } }),
        ];
        for variables in &variables {
            assert!(!is_known(&costs, variables.clone()), "{variables}");
            assert!(is_known(&costs, variables.clone()), "{variables}");
        }
        assert!(is_known(&costs, value!({ "a": 1, "b": "another" })));
        assert!(!is_known(&costs, value!({ "a": 1 })) && !is_known(&costs, value!({ "b": 1 })));
    }

    #[test]
    fn the_entries_are_bounded() {
        let costs = KnownCosts::default();
        for number in 0..1_000 {
            is_known(&costs, value!({ "a": number }));
        }
        assert_eq!(costs.0.lock().len(), ENTRIES_MAX);
        let long: Vec<i32> = (0..1_000).collect();
        assert!(!is_known(&KnownCosts::default(), value!({ "a": long.clone() })));
        assert!(!is_known(&costs, value!({ "a": long })));
    }
}
