//! Statements on table `known_address`.

use db::{Db, Error, Tx, query};
use proto::UserId;

/// Returns true if the user has signed in from this address within the last `age_us` microseconds.
pub(crate) async fn contains(db: &Db, user: UserId, address_hash: &[u8], age_us: i64) -> Result<bool, Error> {
    let select = query(
        "select user_id from known_address
         where user_id = $1 and address_hash = $2 and seen_at_us > (select now_us from clock) - $3",
    );
    let select = select.bind(user.uuid()).bind(address_hash.to_vec()).bind(age_us);
    Ok(select.optional(db).await?.is_some())
}

/// Inserts an address, or records that it was used now.
pub(crate) async fn upsert(tx: &mut Tx, user: UserId, address_hash: &[u8]) -> Result<(), Error> {
    let upsert = query(
        "insert into known_address (user_id, address_hash, seen_at_us)
         select $1, $2, now_us from clock where true
         on conflict (user_id, address_hash) do update set seen_at_us = excluded.seen_at_us",
    );
    upsert.bind(user.uuid()).bind(address_hash.to_vec()).execute(tx).await.map(drop)
}

/// Deletes the addresses of a user except the `keep` most recently used. Requires the lock on the user's
/// row.
pub(crate) async fn keep_newest(tx: &mut Tx, user: UserId, keep: i64) -> Result<(), Error> {
    // `limit 1000` because SQLite has no `offset` without a limit. A user never has that many.
    let delete = query(
        "delete from known_address where user_id = $1 and address_hash in (
             select address_hash from known_address where user_id = $1
             order by seen_at_us desc, address_hash limit 1000 offset $2
         )",
    );
    delete.bind(user.uuid()).bind(keep).execute(tx).await.map(drop)
}

/// Deletes at most `limit` addresses that were last used more than `age_us` microseconds ago, and returns
/// their number.
pub(crate) async fn delete_old(tx: &mut Tx, age_us: i64, limit: i64) -> Result<u64, Error> {
    let delete = query(
        "delete from known_address where (user_id, address_hash) in (
             select user_id, address_hash from known_address
             where seen_at_us < (select now_us from clock) - $1 limit $2
         )",
    );
    delete.bind(age_us).bind(limit).execute(tx).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{databases, insert_user};

    const HOUR_US: i64 = 3_600_000_000;

    async fn is_known(db: &Db, user: UserId, address: u8) -> bool {
        contains(db, user, &[address; 3], HOUR_US).await.unwrap()
    }

    async fn use_address(db: &Db, user: UserId, address: u8, keep: i64) {
        let mut tx = db.begin().await.unwrap();
        upsert(&mut tx, user, &[address; 3]).await.unwrap();
        keep_newest(&mut tx, user, keep).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Moves the last use of an address into the past.
    async fn age(db: &Db, address: u8, by_us: i64) {
        let mut tx = db.begin().await.unwrap();
        let update = query("update known_address set seen_at_us = seen_at_us - $2 where address_hash = $1");
        update.bind(vec![address; 3]).bind(by_us).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn an_address_is_known_to_one_user_and_for_a_time() {
        for test in databases().await {
            let db = &test.db;
            let ann = insert_user(db, "ann", "Ann").await;
            let bob = insert_user(db, "bob", "Bob").await;
            use_address(db, ann, 1, 9).await;
            use_address(db, ann, 1, 9).await;
            assert!(is_known(db, ann, 1).await, "{}", test.name);
            assert!(!is_known(db, ann, 2).await && !is_known(db, bob, 1).await);
            age(db, 1, HOUR_US).await;
            assert!(!is_known(db, ann, 1).await, "{}: too long ago", test.name);
            use_address(db, ann, 1, 9).await;
            assert!(is_known(db, ann, 1).await, "{}: used again", test.name);
        }
    }

    #[tokio::test]
    async fn the_addresses_used_least_recently_make_room_for_others() {
        for test in databases().await {
            let db = &test.db;
            let ann = insert_user(db, "ann", "Ann").await;
            let bob = insert_user(db, "bob", "Bob").await;
            use_address(db, bob, 1, 3).await;
            for address in 1..=3 {
                use_address(db, ann, address, 3).await;
                age(db, address, i64::from(4 - address) * 1_000_000).await;
            }
            use_address(db, ann, 1, 3).await;
            use_address(db, ann, 4, 3).await;
            let mut known = Vec::new();
            for address in 1..=4 {
                known.push(is_known(db, ann, address).await);
            }
            assert_eq!(known, [true, false, true, true], "{}", test.name);
            assert!(is_known(db, bob, 1).await, "{}: another user's", test.name);
        }
    }

    #[tokio::test]
    async fn old_addresses_are_deleted_in_batches() {
        for test in databases().await {
            let db = &test.db;
            let ann = insert_user(db, "ann", "Ann").await;
            for address in 1..=4 {
                use_address(db, ann, address, 9).await;
            }
            for address in 1..=3 {
                age(db, address, HOUR_US).await;
            }
            let mut deleted = Vec::new();
            for _ in 0..3 {
                let mut tx = db.begin().await.unwrap();
                deleted.push(delete_old(&mut tx, HOUR_US, 2).await.unwrap());
                tx.commit().await.unwrap();
            }
            assert_eq!(deleted, [2, 1, 0], "{}", test.name);
            assert!(is_known(db, ann, 4).await);
        }
    }
}
