//! Why everything is locked before anything is computed. Under READ COMMITTED a statement that waited for a row still sees
//! its old snapshot everywhere else, so two transactions that meet end wrong where the rows are not locked in a statement
//! of its own. Each meeting is told twice: with the locks of [`transact`] it ends exact; without them the anomaly is there,
//! which shows that the meeting took place. On Postgres alone: SQLite has one writer.

use db::{Db, Tx, query};
use proto::{DialogId, MessageId, UserId};
use testkit::{TestDb, eventually};

use super::{
    Scope, lock, part,
    tests::{databases, tables},
    transact,
};
use crate::kernel::{Change, Input, ledger::Message};

/// Two people of a dialog in which one has written.
struct Meeting {
    test: TestDb,
    dialog_id: DialogId,
    author_id: UserId,
    reader_id: UserId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Locks {
    First,
    None,
}

impl Meeting {
    /// `None` where there is no Postgres.
    async fn new() -> Option<Self> {
        let test = databases().await.into_iter().find(|test| test.name == "postgres")?;
        let [author_id, reader_id] = [(); 2].map(|()| UserId::now());
        let meeting = Self { test, dialog_id: DialogId::now(), author_id, reader_id };
        let mut tx = meeting.test.db.begin().await.unwrap();
        let joins =
            [author_id, reader_id].map(|user_id| Change::Joined { user_id, version: 1, joined_seq: 0 });
        transact(&mut tx, &joins.map(|join| meeting.at(join))).await.unwrap();
        tx.commit().await.unwrap();
        Some(meeting)
    }

    fn at(&self, change: Change) -> Input {
        Input::Dialog { dialog_id: self.dialog_id, version: None, change }
    }

    fn sent(&self, seq: i64) -> Input {
        self.at(Change::Sent(Message { seq, id: MessageId::now(), author_id: self.author_id }, seq))
    }

    fn read(&self, up_to: i64) -> Input {
        self.at(Change::Read { user_id: self.reader_id, up_to })
    }

    /// The first transaction holds what it wrote until the second waits for it or has ended; the reader's count afterwards.
    async fn end(&self, locks: Locks, [first, second]: [Input; 2]) -> i64 {
        let mut tx = self.test.db.begin().await.unwrap();
        write(&mut tx, locks, &first).await;
        let db = self.test.db.clone();
        let second = tokio::spawn(async move {
            let mut tx = db.begin().await.unwrap();
            write(&mut tx, locks, &second).await;
            tx.commit().await.unwrap();
        });
        self.waits_or_ends(&second).await;
        tx.commit().await.unwrap();
        second.await.unwrap();
        self.unread_of(self.reader_id).await
    }

    async fn waits_or_ends(&self, second: &tokio::task::JoinHandle<()>) {
        eventually("the second transaction waits or has ended", || async {
            second.is_finished() || waiting(&self.test.db).await
        })
        .await;
    }

    async fn unread_of(&self, user_id: UserId) -> i64 {
        let mut tx = self.test.db.begin().await.unwrap();
        tables(&mut tx).await.dialogs[&self.dialog_id].members[&user_id].unread
    }
}

async fn write(tx: &mut Tx, locks: Locks, input: &Input) {
    let inputs = std::slice::from_ref(input);
    match locks {
        Locks::First => drop(transact(tx, inputs).await.unwrap()),
        Locks::None => drop(part::apply(tx, inputs).await.unwrap()),
    }
}

/// Whether a transaction of this database waits for another one.
async fn waiting(db: &Db) -> bool {
    let select = query(
        "select count(*) as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
    );
    select.one(db).await.unwrap().get::<i64>("n").unwrap() > 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_waited_for_a_read_makes_no_ghost() {
    for (locks, expected) in [(Locks::First, 0), (Locks::None, 1)] {
        let Some(meeting) = Meeting::new().await else { return };
        // The pointer may be ahead of what was counted: message 1 is read before it is counted.
        let unread = meeting.end(locks, [meeting.read(1), meeting.sent(1)]).await;
        assert_eq!(unread, expected, "{locks:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_beside_a_message_loses_no_count() {
    for (locks, expected) in [(Locks::First, 1), (Locks::None, 0)] {
        let Some(mut meeting) = Meeting::new().await else { return };
        meeting.reader_id = UserId::now();
        let join = Change::Joined { user_id: meeting.reader_id, version: 2, joined_seq: 0 };
        let unread = meeting.end(locks, [meeting.sent(1), meeting.at(join)]).await;
        assert_eq!(unread, expected, "{locks:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_in_one_statement_loses_a_count_unless_the_locks_come_first() {
    for (locks, expected) in [(Locks::First, 1), (Locks::None, 0)] {
        let Some(meeting) = Meeting::new().await else { return };
        let mut tx = meeting.test.db.begin().await.unwrap();
        write(&mut tx, Locks::First, &meeting.sent(1)).await;
        tx.commit().await.unwrap();
        let mut tx = meeting.test.db.begin().await.unwrap();
        write(&mut tx, Locks::First, &meeting.sent(2)).await;
        let (db, read, reader_id) = (meeting.test.db.clone(), meeting.read(1), meeting.reader_id);
        let second = tokio::spawn(async move {
            let mut tx = db.begin().await.unwrap();
            if locks == Locks::First {
                let scope = Scope::of(&[read]);
                lock::dialogs(&mut tx, &scope).await.unwrap();
                lock::users(&mut tx, &scope).await.unwrap();
            }
            read_in_one_statement(&mut tx, reader_id).await;
            tx.commit().await.unwrap();
        });
        meeting.waits_or_ends(&second).await;
        tx.commit().await.unwrap();
        second.await.unwrap();
        assert_eq!(meeting.unread_of(meeting.reader_id).await, expected, "{locks:?}");
    }
}

/// Reading up to message 1 as one would write it: the pointer and the count at once.
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
