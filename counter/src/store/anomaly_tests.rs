//! Anomalies of READ COMMITTED, and the locks that prevent them. A statement that waited for a row lock
//! re-reads that row and sees its old snapshot everywhere else, so two concurrent transactions give a
//! wrong count unless the rows are locked by an earlier statement.
//!
//! Each race runs twice: with the locks of [`transact`] the count is exact; without them it is wrong,
//! which proves that the race took place. Postgres only: SQLite has one writer.

use db::{Db, Tx, query};
use proto::{DialogId, MessageId, UserId};
use testkit::{TestDb, eventually};

use super::{
    Scope, apply, lock,
    tests::{databases, load_state},
    transact,
};
use crate::kernel::{Change, Input, ledger::Message};

/// Race in a dialog of an author and a reader.
struct Race {
    test: TestDb,
    dialog_id: DialogId,
    author_id: UserId,
    reader_id: UserId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Locking {
    BeforeWriting,
    Omitted,
}

impl Race {
    /// Creates the dialog. Returns `None` if no PostgreSQL is available.
    async fn new() -> Option<Self> {
        let test = databases().await.into_iter().find(|test| test.name == "postgres")?;
        let [author_id, reader_id] = [(); 2].map(|()| UserId::now());
        let race = Self { test, dialog_id: DialogId::now(), author_id, reader_id };
        let mut tx = race.test.db.begin().await.unwrap();
        let joins =
            [author_id, reader_id].map(|user_id| Change::Joined { user_id, version: 1, joined_seq: 0 });
        transact(&mut tx, &joins.map(|join| race.input(join))).await.unwrap();
        tx.commit().await.unwrap();
        Some(race)
    }

    fn input(&self, change: Change) -> Input {
        Input::Dialog { dialog_id: self.dialog_id, version: None, change }
    }

    fn sent(&self, seq: i64) -> Input {
        self.input(Change::Sent(Message { seq, id: MessageId::now(), author_id: self.author_id }, seq))
    }

    fn read(&self, up_to: i64) -> Input {
        self.input(Change::Read { user_id: self.reader_id, up_to })
    }

    /// Runs two transactions: the first commits when the second waits for it or has ended. Returns the
    /// reader's count.
    async fn run(&self, locking: Locking, [first, second]: [Input; 2]) -> i64 {
        let mut tx = self.test.db.begin().await.unwrap();
        write(&mut tx, locking, &first).await;
        let db = self.test.db.clone();
        let second = tokio::spawn(async move {
            let mut tx = db.begin().await.unwrap();
            write(&mut tx, locking, &second).await;
            tx.commit().await.unwrap();
        });
        self.wait_until_blocked_or_ended(&second).await;
        tx.commit().await.unwrap();
        second.await.unwrap();
        self.unread_of(self.reader_id).await
    }

    async fn wait_until_blocked_or_ended(&self, second: &tokio::task::JoinHandle<()>) {
        eventually("the second transaction waits or has ended", || async {
            second.is_finished() || is_blocked(&self.test.db).await
        })
        .await;
    }

    async fn unread_of(&self, user_id: UserId) -> i64 {
        let mut tx = self.test.db.begin().await.unwrap();
        load_state(&mut tx).await.dialogs[&self.dialog_id].members[&user_id].unread
    }
}

async fn write(tx: &mut Tx, locking: Locking, input: &Input) {
    let inputs = std::slice::from_ref(input);
    match locking {
        Locking::BeforeWriting => drop(transact(tx, inputs).await.unwrap()),
        Locking::Omitted => drop(apply::batch(tx, inputs, apply::Counting::Adjusted).await.unwrap()),
    }
}

/// Returns true if a transaction of this database waits for a lock.
async fn is_blocked(db: &Db) -> bool {
    let select = query(
        "select count(*) as n from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock'",
    );
    select.one(db).await.unwrap().get::<i64>("n").unwrap() > 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_not_counted_if_a_concurrent_read_covers_it() {
    for (locking, expected) in [(Locking::BeforeWriting, 0), (Locking::Omitted, 1)] {
        let Some(race) = Race::new().await else { return };
        // A read pointer may be ahead of the ledger: message 1 is read before it is counted.
        let unread = race.run(locking, [race.read(1), race.sent(1)]).await;
        assert_eq!(unread, expected, "{locking:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_concurrent_with_a_message_loses_no_count() {
    for (locking, expected) in [(Locking::BeforeWriting, 1), (Locking::Omitted, 0)] {
        let Some(mut race) = Race::new().await else { return };
        race.reader_id = UserId::now();
        let join = Change::Joined { user_id: race.reader_id, version: 2, joined_seq: 0 };
        let unread = race.run(locking, [race.sent(1), race.input(join)]).await;
        assert_eq!(unread, expected, "{locking:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_in_one_statement_loses_a_count_unless_rows_are_locked_first() {
    for (locking, expected) in [(Locking::BeforeWriting, 1), (Locking::Omitted, 0)] {
        let Some(race) = Race::new().await else { return };
        let mut tx = race.test.db.begin().await.unwrap();
        write(&mut tx, Locking::BeforeWriting, &race.sent(1)).await;
        tx.commit().await.unwrap();
        let mut tx = race.test.db.begin().await.unwrap();
        write(&mut tx, Locking::BeforeWriting, &race.sent(2)).await;
        let db = race.test.db.clone();
        let read = race.read(1);
        let reader_id = race.reader_id;
        let second = tokio::spawn(async move {
            let mut tx = db.begin().await.unwrap();
            if locking == Locking::BeforeWriting {
                let scope = Scope::of(&[read]);
                lock::dialogs(&mut tx, &scope).await.unwrap();
                lock::users(&mut tx, &scope).await.unwrap();
            }
            read_in_one_statement(&mut tx, reader_id).await;
            tx.commit().await.unwrap();
        });
        race.wait_until_blocked_or_ended(&second).await;
        tx.commit().await.unwrap();
        second.await.unwrap();
        assert_eq!(race.unread_of(race.reader_id).await, expected, "{locking:?}");
    }
}

/// Reads up to message 1 the obvious way: one statement sets pointer and count.
async fn read_in_one_statement(tx: &mut Tx, reader_id: UserId) {
    let update = query(
        "update member_counter set read_seq = 1, unread = (
             select count(*) from ledger l
             where l.dialog_id = member_counter.dialog_id and l.state = 'counted'
               and l.seq > 1 and l.author_id <> member_counter.user_id
         ) where user_id = $1",
    );
    update.bind(reader_id.uuid()).execute(tx).await.unwrap();
}
