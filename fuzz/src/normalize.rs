//! Reads GraphQL requests, one JSON object per line, and writes what the gateway makes of each: the code of
//! its rejection, or its normalized operation. `tests/clients/differential` compares this with graphql-js.

use std::io::{BufRead, Write};

use anyhow::Context;
use async_graphql::Variables;
use async_graphql_parser::types::{DocumentOperations, Field, Selection, SelectionSet};
use gateway::fuzzing::{DocumentCache, EMPTY_OBJECT, PreparedOperation};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    query: String,
    operation_name: Option<String>,
    #[serde(default)]
    variables: Variables,
}

fn main() -> anyhow::Result<()> {
    let documents = DocumentCache::new(true);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?).context("a request")?;
        let prepared = documents.prepare(request.query.into(), request.operation_name, &request.variables);
        let judged = match runtime.block_on(prepared) {
            Ok(prepared) => normalized(&prepared)?,
            Err(rejected) => {
                let messages: Vec<_> = rejected.errors().iter().map(|error| error.message.as_str()).collect();
                json!({ "code": rejected.code().name(), "messages": messages })
            }
        };
        writeln!(output, "{judged}")?;
    }
    Ok(())
}

fn normalized(prepared: &PreparedOperation) -> anyhow::Result<Value> {
    let DocumentOperations::Single(operation) = &prepared.document().operations else {
        anyhow::bail!("the document has one operation");
    };
    let fields = fields(&operation.node.selection_set.node)?;
    Ok(json!({ "operation": prepared.kind.to_string(), "fields": fields }))
}

/// Returns the fields of an object, in order.
fn fields(set: &SelectionSet) -> anyhow::Result<Vec<Value>> {
    let fields = set.items.iter().map(|selection| match &selection.node {
        Selection::Field(field) => self::field(&field.node),
        _ => anyhow::bail!("an object has only fields"),
    });
    // The executor's mark of an object without selections is no field of the client.
    let fields: Vec<Value> = fields.collect::<Result<_, _>>()?;
    Ok(fields.into_iter().filter(|field| field["key"] != EMPTY_OBJECT).collect())
}

fn field(field: &Field) -> anyhow::Result<Value> {
    anyhow::ensure!(field.directives.is_empty(), "directives are resolved");
    let mut arguments = Map::new();
    for (name, value) in &field.arguments {
        let value = value.node.clone().into_const().context("variables are resolved")?;
        arguments.insert(name.node.to_string(), value.into_json()?);
    }
    let mut types = Map::new();
    let below = &field.selection_set.node;
    for selection in &below.items {
        match &selection.node {
            Selection::InlineFragment(fragment) => {
                let condition = fragment.node.type_condition.as_ref().context("a fragment has a type")?;
                let fields = fields(&fragment.node.selection_set.node)?;
                types.insert(condition.node.on.node.to_string(), fields.into());
            }
            _ => {
                types.insert("object".to_owned(), fields(below)?.into());
                break;
            }
        }
    }
    let key = field.response_key().node.as_str();
    Ok(json!({ "key": key, "name": field.name.node.as_str(), "arguments": arguments, "types": types }))
}
