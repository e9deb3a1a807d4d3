//! Replaced past and lost events: raises of the epoch, and cuts of the log.
//!
//! While a cut is open it is not known which dialogs missed events, so all counts count as stale. Opening
//! and closing it change the state of all users at once; the epoch is raised instead of every user's
//! version.

use std::collections::BTreeSet;

use db::{Db, Dialect, Error, Tx, query};
use events::{Headers, outbox};
use proto::{
    DialogId, UserId,
    events::{EpochRaised, event::Kind},
    topic,
};
use uuid::Uuid;

use super::{Scope, lock};
use crate::{publish, unread::Version};

/// Epoch of versions, with the state that all users share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch {
    /// Raised when the past is replaced.
    pub number: i64,
    /// True while the log is cut and the dialogs that missed events are not known yet.
    pub is_cut: bool,
}

/// Waits until no other transaction has a version of the epoch that it has not committed, and keeps new
/// ones waiting. Call it before the epoch is read or written.
pub(crate) async fn wait_for_writers(tx: &mut Tx) -> Result<(), Error> {
    if tx.dialect() == Dialect::Postgres {
        // A writer reads the epoch after it has locked users, and keeps that lock until it commits. With
        // this lock no event of the old epoch describes a state that snapshots of the new one lack. It
        // lets readers and dumps through.
        query("lock table user_version in share row exclusive mode").execute(tx).await?;
    }
    Ok(())
}

/// Raises the epoch and announces it.
pub(crate) async fn raise_epoch(tx: &mut Tx) -> Result<i64, Error> {
    wait_for_writers(tx).await?;
    let epoch = events::epoch::raise(tx).await?;
    let kind = Kind::UnreadEpochRaised(EpochRaised { epoch });
    let key = topic::UNREAD.to_owned();
    let event = publish::event(topic::UNREAD, key, 0, kind, Headers::default());
    outbox::append(tx, &[event]).await?;
    Ok(epoch)
}

/// Returns true if the database has not given out this version, although it is of the current epoch.
pub(crate) async fn is_unknown(tx: &mut Tx, user_id: UserId, version: Version) -> Result<bool, Error> {
    let select = query(
        "select e.number = $2 and coalesce(v.version, 0) < $3 as is_unknown
         from epoch e left join user_version v on v.user_id = $1",
    );
    let select = select.bind(user_id.uuid()).bind(version.epoch).bind(version.number);
    select.one(tx).await?.get("is_unknown")
}

/// Opens a cut: records of a partition that the log lost before they were applied.
pub(crate) async fn open(
    tx: &mut Tx,
    (topic, partition): (&str, i64),
    (from, to): (i64, i64),
) -> Result<(), Error> {
    let insert = query(
        "insert into log_cut (id, topic, partition, from_offset, to_offset, noticed_at_us)
         values ($1, $2, $3, $4, $5, (select now_us from clock))",
    );
    let insert = insert.bind(Uuid::now_v7()).bind(topic).bind(partition).bind(from).bind(to);
    insert.execute(tx).await.map(drop)
}

/// Returns the open cuts.
pub(crate) async fn cuts(db: &Db) -> Result<BTreeSet<Uuid>, Error> {
    query("select id from log_cut").all(db).await?.iter().map(|row| row.get("id")).collect()
}

/// Closes cuts, and announces it. Returns the new epoch; `None` if all of them are closed already.
pub(crate) async fn close(tx: &mut Tx, cuts: &BTreeSet<Uuid>) -> Result<Option<i64>, Error> {
    // Before the lock of `raise_epoch`: who marks dialogs holds these rows and waits for dialogs, whose
    // writers would wait for that lock.
    let delete = query("delete from log_cut where id in (select id from rows($1: id uuid) as r)");
    let closed = delete.bind(lock::ids(cuts.iter().copied())).execute(&mut *tx).await?;
    if closed == 0 { Ok(None) } else { raise_epoch(tx).await.map(Some) }
}

/// Returns those of the dialogs whose applied version is below the given one.
pub(crate) async fn behind(db: &Db, heads: &[(DialogId, i64)]) -> Result<Vec<(DialogId, i64)>, Error> {
    let select = query(
        "select r.id, r.head from rows($1: id uuid, head bigint) as r
         left join dialog_applied a on a.dialog_id = r.id
         where r.head > coalesce(a.version, 0) order by r.id",
    );
    let rows = heads.iter().map(|(id, head)| serde_json::json!({ "id": id.uuid(), "head": head }));
    let rows = select.bind(serde_json::Value::Array(rows.collect())).all(db).await?;
    rows.iter().map(|row| Ok((DialogId::new(row.get("id")?), row.get("head")?))).collect()
}

/// Marks the versions of these dialogs up to the given ones as missing, except those that were applied.
/// No user's version steps: a cut is open, so all their counts are stale before and after. Does nothing
/// and returns false if another process has closed the cuts.
pub(crate) async fn mark_missing(
    tx: &mut Tx,
    cuts: &BTreeSet<Uuid>,
    heads: &[(DialogId, i64)],
) -> Result<bool, Error> {
    let statement = match tx.dialect() {
        Dialect::Sqlite => "select id from log_cut where id in (select id from rows($1: id uuid) as r)",
        // Keeps the cuts open until the commit.
        Dialect::Postgres => {
            "select id from log_cut where id in (select id from rows($1: id uuid) as r)
             order by id for share"
        }
    };
    let open = query(statement).bind(lock::ids(cuts.iter().copied())).all(&mut *tx).await?;
    if open.is_empty() {
        return Ok(false);
    }
    let scope = Scope { dialogs: heads.iter().map(|(id, _)| *id).collect(), ..Scope::default() };
    let mut applied = lock::dialogs(tx, &scope).await?;
    for (dialog_id, head) in heads {
        applied.entry(*dialog_id).or_default().expect_up_to(*head);
    }
    lock::write_applied(tx, &applied).await.map(|()| true)
}

#[cfg(test)]
mod tests {
    use testkit::eventually;

    use super::*;
    use crate::{
        kernel::{Change, Input},
        store::{self, tests::databases},
    };

    async fn apply(db: &Db, inputs: &[Input]) {
        let mut tx = db.begin().await.unwrap();
        store::transact(&mut tx, inputs).await.unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn a_raise_waits_for_writers_that_have_read_the_epoch() {
        for test in databases().await {
            let mut writer = test.db.begin().await.unwrap();
            store::transact(&mut writer, &[Input::Registered(UserId::now())]).await.unwrap();
            let old = store::epoch(&mut writer).await.unwrap().number;
            let db = test.db.clone();
            let raise = tokio::spawn(async move {
                let mut tx = db.begin().await.unwrap();
                let epoch = raise_epoch(&mut tx).await.unwrap();
                tx.commit().await.unwrap();
                epoch
            });
            if test.db.dialect() == Dialect::Postgres {
                eventually("the raise waits", || async {
                    let waiting = "select exists (select 1 from pg_locks where not granted and relation =
                        cast('user_version' as regclass)) as waits";
                    query(waiting).one(&test.db).await.unwrap().get("waits").unwrap()
                })
                .await;
            }
            assert!(!raise.is_finished(), "{}", test.name);
            writer.commit().await.unwrap();
            let raised = raise.await.unwrap();
            assert!(raised > old && raised > 1_700_000_000, "{raised}");
            let mut tx = test.db.snapshot().await.unwrap();
            assert_eq!(store::epoch(&mut tx).await.unwrap(), Epoch { number: raised, is_cut: false });
            tx.rollback().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_cut_makes_everything_stale_until_it_is_known_who_missed_events() {
        for test in databases().await {
            let db = &test.db;
            let [ada, bob] = [(); 2].map(|()| UserId::now());
            let [behind, complete, unknown] = [(); 3].map(|()| DialogId::now());
            let join = |user_id, dialog_id| Input::Dialog {
                dialog_id,
                version: Some(1),
                change: Change::Joined { user_id, version: 1, joined_seq: 0 },
            };
            apply(db, &[join(ada, behind), join(bob, complete)]).await;
            let is_stale = async |user_id| {
                let mut tx = db.snapshot().await.unwrap();
                let stale = store::version(&mut tx, user_id).await.unwrap().stale;
                tx.rollback().await.unwrap();
                stale
            };
            assert_eq!((is_stale(ada).await, is_stale(bob).await), (false, false));
            let mut tx = db.begin().await.unwrap();
            let opened_in = raise_epoch(&mut tx).await.unwrap();
            open(&mut tx, ("tidings.dialog", 3), (5, 9)).await.unwrap();
            tx.commit().await.unwrap();
            assert_eq!((is_stale(ada).await, is_stale(bob).await), (true, true), "{}", test.name);

            let heads = [(behind, 4), (complete, 1), (unknown, 2)];
            let mut found = super::behind(db, &heads).await.unwrap();
            found.sort_by_key(|(_, head)| *head);
            assert_eq!(found, [(unknown, 2), (behind, 4)]);
            let cuts = cuts(db).await.unwrap();
            let mut tx = db.begin().await.unwrap();
            assert!(mark_missing(&mut tx, &cuts, &found).await.unwrap());
            tx.commit().await.unwrap();
            let mut tx = db.begin().await.unwrap();
            let closed_in = close(&mut tx, &cuts).await.unwrap().expect("the cut was open");
            tx.commit().await.unwrap();
            assert!(closed_in > opened_in);
            assert_eq!((is_stale(ada).await, is_stale(bob).await), (true, false));
            let incomplete = store::incomplete(db, DialogId::new(Uuid::nil()), 9).await.unwrap();
            assert_eq!(incomplete.len(), 2);

            // Another process that found the same cut does nothing any more.
            let mut tx = db.begin().await.unwrap();
            assert!(!mark_missing(&mut tx, &cuts, &[(complete, 7)]).await.unwrap());
            assert_eq!(close(&mut tx, &cuts).await.unwrap(), None);
            tx.commit().await.unwrap();
            let repaired = Input::Dialog { dialog_id: behind, version: None, change: Change::Repaired(4) };
            apply(db, &[repaired]).await;
            assert_eq!((is_stale(ada).await, is_stale(bob).await), (false, false));
        }
    }
}
