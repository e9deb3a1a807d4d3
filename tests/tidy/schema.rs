//! The public schema without its descriptions, against a snapshot: rewording a description is no change
//! of the contract, and anything else is one that shows in the snapshot's diff.

use std::{fs, path::Path};

const SCHEMA: &str = "schema.graphql";
const SNAPSHOT: &str = "tests/schema_without_descriptions.graphql";

/// Compares the schema with the snapshot, or writes the snapshot where `UPDATE` is set.
pub fn compare() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let schema = fs::read_to_string(root.join(SCHEMA)).expect("the schema is in the repository");
    let current = without_descriptions(&schema);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(root.join(SNAPSHOT), &current).expect("the snapshot can be written");
    }
    let snapshot = fs::read_to_string(root.join(SNAPSHOT)).unwrap_or_default();
    assert!(
        current == snapshot,
        "{SCHEMA} changed in more than descriptions; run: UPDATE=1 cargo test --test tidy schema, and review \
         the diff of {SNAPSHOT}"
    );
}

/// Removes descriptions, which begin a line, and empty lines.
fn without_descriptions(schema: &str) -> String {
    let mut block = false;
    let mut kept = String::new();
    for line in schema.lines() {
        let text = line.trim();
        if block {
            block = !text.ends_with("\"\"\"");
        } else if let Some(rest) = text.strip_prefix("\"\"\"") {
            block = !rest.ends_with("\"\"\"");
        } else if !text.starts_with('"') && !text.is_empty() {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

#[test]
fn only_a_description_may_change_without_the_snapshot() {
    let schema =
        |description: &str, ty: &str| format!("{description}\ntype A {{\n  a(b: String = \"c\"): {ty}\n}}\n");
    let bare = without_descriptions(&schema("", "Int"));
    assert_eq!(bare, "type A {\n  a(b: String = \"c\"): Int\n}\n");
    for description in ["\"One line.\"", "\"\"\"One line.\"\"\"", "\"\"\"\nSeveral\nlines.\n\"\"\""] {
        assert_eq!(without_descriptions(&schema(description, "Int")), bare, "{description}");
    }
    assert_ne!(without_descriptions(&schema("", "Int!")), bare);
}
