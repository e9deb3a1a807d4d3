//! Sets of rows as input of a statement, with one syntax for both databases: `rows($1: id uuid, seq
//! bigint)` is the relation of these columns in the bound value, a JSON array of objects. A `bytea`
//! column is hexadecimal text in the JSON.
//!
//! docs/decisions/0001-one-statement-two-databases.md says why statements are not written twice.

use std::{borrow::Cow, fmt::Write};

use crate::Dialect;

/// Encodes the value of a `bytea` column of `rows(…)`.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

/// Replaces every `rows($n: column type, …)` of a statement by the SQL of the dialect.
pub(crate) fn expand(sql: &'static str, dialect: Dialect) -> Cow<'static, str> {
    if !sql.contains("rows($") {
        return Cow::Borrowed(sql);
    }
    let mut out = String::with_capacity(sql.len() + 128);
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once("rows($") {
        let (relation, after) = after.split_once(')').expect("rows(…) ends with a parenthesis");
        let (bind, columns) = relation.split_once(": ").expect("rows(…) lists its columns");
        out.push_str(before);
        out.push_str(&match dialect {
            Dialect::Sqlite => sqlite(bind, columns),
            Dialect::Postgres => postgres(bind, columns),
        });
        rest = after;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn columns(list: &str) -> impl Iterator<Item = (&str, &str)> {
    list.split(", ").map(|column| column.split_once(' ').expect("a column of rows(…) has a name and a type"))
}

fn sqlite(bind: &str, list: &str) -> String {
    let select: Vec<String> = columns(list)
        .map(|(name, kind)| match kind {
            "bytea" => format!("unhex(value ->> '{name}') as {name}"),
            _ => format!("value ->> '{name}' as {name}"),
        })
        .collect();
    format!("(select {} from json_each(${bind}))", select.join(", "))
}

fn postgres(bind: &str, list: &str) -> String {
    let select: Vec<String> = columns(list)
        .map(|(name, kind)| match kind {
            "bytea" => format!("decode({name}, 'hex') as {name}"),
            _ => name.to_owned(),
        })
        .collect();
    let declared: Vec<String> = columns(list)
        .map(|(name, kind)| format!("{name} {}", if kind == "bytea" { "text" } else { kind }))
        .collect();
    let select = select.join(", ");
    let declared = declared.join(", ");
    let rows =
        format!("select {select} from jsonb_to_recordset(cast(${bind} as jsonb)) as input({declared})");
    format!("(select * from ({rows} {UNKNOWN_LIMIT}) as few {UNKNOWN_LIMIT})")
}

/// Limit that PostgreSQL cannot estimate, so that it expects a tenth of the rows. It expects 100 rows of
/// a function, and with two of these limits one row: then it reads tables by their indexes, and a plan
/// is the same for any value, so that it is kept. With 100 rows it scans tables of up to some ten
/// thousand rows (docs/decisions/0021-plans-of-row-sets.md).
const UNKNOWN_LIMIT: &str = "limit (select 1000000000)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_expands_to_the_sql_of_each_database() {
        let sql = "select id from rows($1: id uuid, body bytea) as r where seq > $2";
        assert_eq!(
            expand(sql, Dialect::Sqlite),
            "select id from (select value ->> 'id' as id, unhex(value ->> 'body') as body \
             from json_each($1)) as r where seq > $2"
        );
        assert_eq!(
            expand(sql, Dialect::Postgres),
            "select id from (select * from (select id, decode(body, 'hex') as body \
             from jsonb_to_recordset(cast($1 as jsonb)) as input(id uuid, body text) \
             limit (select 1000000000)) as few limit (select 1000000000)) as r where seq > $2"
        );
    }

    #[test]
    fn a_statement_without_rows_is_unchanged() {
        assert!(matches!(expand("select 1", Dialect::Postgres), Cow::Borrowed("select 1")));
    }
}
