//! Statements that look up and search users. They may read a replica.

use db::{Db, Error, query};
use proto::UserId;
use serde_json::json;

use super::user_from_row;
use crate::user::{Prefix, User};

/// Returns the users with these ids, in no order. Unknown ids are omitted.
pub(crate) async fn list(db: &Db, ids: &[UserId]) -> Result<Vec<User>, Error> {
    let select = query(
        "select id, login, name, created_at_us from account
         where id in (select r.id from rows($1: id uuid) as r)",
    );
    let ids = ids.iter().map(|id| json!({ "id": id.uuid() })).collect();
    select.bind(serde_json::Value::Array(ids)).read(db).await?.iter().map(user_from_row).collect()
}

/// Returns at most `limit` users whose login or lower-case name starts with the prefix, ordered by
/// login. Each half of the union reads a range of an index: the half by login stops after a page, the
/// half by name is an index-only scan.
pub(crate) async fn search(db: &Db, prefix: &Prefix, after: &str, limit: i64) -> Result<Vec<User>, Error> {
    let select = query(
        "select id, login, name, created_at_us from account
         where login in (
             select login from (
                 select login from account where login >= $1 and login < $2 and login > $3
                 order by login limit $4
             ) as by_login
             union
             select login from (
                 select login from account where name_lower >= $1 and name_lower < $2 and login > $3
                 order by login limit $4
             ) as by_name
         )
         order by login limit $4",
    );
    let select = select.bind(prefix.low()).bind(prefix.high()).bind(after).bind(limit);
    select.read(db).await?.iter().map(user_from_row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{databases, insert_user};

    async fn logins(db: &Db, prefix: &str, after: &str, limit: i64) -> Vec<String> {
        let prefix = Prefix::parse(prefix).unwrap();
        search(db, &prefix, after, limit).await.unwrap().into_iter().map(|user| user.login).collect()
    }

    #[tokio::test]
    async fn users_are_found_by_a_prefix_of_login_or_name_in_any_case() {
        for test in databases().await {
            let db = &test.db;
            for (login, name) in [
                ("anna", "Zoe"),
                ("bob", "Anna B."),
                ("carl", "ANton"),
                ("dora", "Joanna"),
                ("eve_an", "Eve"),
                ("franz", "Änne"),
                ("gustav", "100% _Gustav"),
                ("an-na", "an-na"),
            ] {
                insert_user(db, login, name).await;
            }
            assert_eq!(logins(db, "an", "", 9).await, ["an-na", "anna", "bob", "carl"], "{}", test.name);
            assert_eq!(logins(db, "AN", "", 9).await, ["an-na", "anna", "bob", "carl"]);
            assert_eq!(logins(db, "ann", "", 9).await, ["anna", "bob"]);
            assert_eq!(logins(db, "äN", "", 9).await, ["franz"]);
            for nothing in ["%%", "__", "a%", "a_", "an\\", "'; --", "zz", "anna b.."] {
                assert_eq!(logins(db, nothing, "", 9).await, [""; 0], "{}: {nothing}", test.name);
            }
            assert_eq!(logins(db, "100%", "", 9).await, ["gustav"]);
        }
    }

    #[tokio::test]
    async fn pages_of_a_search_have_no_gap_and_no_duplicate() {
        for test in databases().await {
            let db = &test.db;
            for number in 0..25 {
                // Some match by login, some by name, some by both.
                let login = if number % 3 == 0 { format!("x{number:02}") } else { format!("pre{number:02}") };
                let name = if number % 2 == 0 || number % 3 == 0 { "Pre" } else { "other" };
                insert_user(db, &login, name).await;
            }
            let all = logins(db, "pre", "", 100).await;
            assert_eq!(all.len(), 25, "{}", test.name);
            assert!(all.is_sorted());
            for size in [1, 4, 24, 25, 26] {
                let mut seen: Vec<String> = Vec::new();
                loop {
                    let after = seen.last().cloned().unwrap_or_default();
                    let page = logins(db, "pre", &after, size).await;
                    if page.is_empty() {
                        break;
                    }
                    seen.extend(page);
                }
                assert_eq!(seen, all, "{}: pages of {size}", test.name);
            }
        }
    }

    #[tokio::test]
    async fn users_are_listed_by_id_and_unknown_ids_omitted() {
        for test in databases().await {
            let db = &test.db;
            let ann = insert_user(db, "ann", "Ann").await;
            let bob = insert_user(db, "bob", "Bob").await;
            insert_user(db, "carl", "Carl").await;
            assert_eq!(list(db, &[]).await.unwrap(), [], "{}", test.name);
            let mut ids: Vec<UserId> = (0..5_000).map(|_| UserId::now()).collect();
            ids.extend([ann, bob, ann]);
            let mut found: Vec<_> =
                list(db, &ids).await.unwrap().into_iter().map(|user| (user.id, user.name)).collect();
            found.sort();
            assert_eq!(found, [(ann, "Ann".to_owned()), (bob, "Bob".to_owned())], "{}", test.name);
        }
    }
}
