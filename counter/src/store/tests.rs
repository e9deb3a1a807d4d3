//! SQL = kernel: the same random histories through both, the tables and the outbox compared after every transaction. Many
//! histories run side by side in one database, so that transactions hold many dialogs and users.

use std::collections::BTreeMap;

use db::{Dialect, Tx, query};
use events::Headers;
use proto::{DialogId, MessageId, UserId, events::event::Kind};
use testkit::TestDb;

use super::transact;
use crate::{
    MIGRATIONS,
    kernel::{
        self, Change, Dialog, Effects, Input, Member, Membership, State,
        applied::Applied,
        history::{self, OUTCAST},
        ledger::{Entry, Standing, Why},
    },
    publish,
};

/// How many histories run on every database.
const HISTORIES: u64 = 2_000;
/// How many of them share a database.
const TOGETHER: u64 = 50;

/// Fresh databases with all tables.
pub(crate) async fn databases() -> Vec<TestDb> {
    testkit::databases(&[&db::MIGRATIONS, &events::MIGRATIONS, &MIGRATIONS]).await
}

/// Databases that refuse to count messages of the outcast.
async fn strict() -> Vec<TestDb> {
    let databases = databases().await;
    for test in &databases {
        let mut tx = test.db.begin().await.unwrap();
        let rule = match tx.dialect() {
            Dialect::Sqlite => {
                "create trigger outcast before insert on ledger
                 when new.state = 'counted' and new.author_id = 'ffffffff-ffff-ffff-ffff-ffffffffffff'
                 begin select raise(abort, 'outcast'); end"
            }
            Dialect::Postgres => {
                "alter table ledger add constraint outcast
                 check (state <> 'counted' or author_id <> 'ffffffff-ffff-ffff-ffff-ffffffffffff')"
            }
        };
        query(rule).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
    }
    databases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_histories_end_as_in_the_kernel() {
    let groups: Vec<u64> = (0..HISTORIES / TOGETHER).collect();
    let halves: Vec<Vec<u64>> = groups.chunks(groups.len().div_ceil(2)).map(<[u64]>::to_vec).collect();
    let halves = halves.into_iter().map(|groups| {
        tokio::spawn(async move {
            for group in groups {
                for test in strict().await {
                    run(&test, group * TOGETHER..(group + 1) * TOGETHER).await;
                }
            }
        })
    });
    for half in halves.collect::<Vec<_>>() {
        half.await.unwrap();
    }
}

/// Runs histories side by side: their first transactions as one, their second ones as one, and so on.
async fn run(test: &TestDb, seeds: std::ops::Range<u64>) {
    let histories: Vec<Vec<Vec<Input>>> =
        seeds.clone().map(|seed| history::random(seed, seed + 1).transactions).collect();
    let longest = histories.iter().map(Vec::len).max().unwrap_or(0);
    let (mut state, mut told) = (State::default(), 0);
    for round in 0..longest {
        let inputs: Vec<Input> =
            histories.iter().filter_map(|history| history.get(round)).flatten().cloned().collect();
        // Every eighth transaction comes again: the kernel and the tables must take it alike.
        let times = if round % 8 == 0 { 2 } else { 1 };
        for _ in 0..times {
            let what = format!("{}, seeds {seeds:?}, transaction {round}", test.name);
            let expected = kernel::transact(&mut state, &inputs);
            let mut tx = test.db.begin().await.unwrap();
            let done = transact(&mut tx, &as_sent(&inputs)).await.unwrap();
            assert_eq!(done.effects, expected, "{what}");
            assert_eq!(done.refused, Vec::<usize>::new(), "{what}: only messages are refused");
            publish::publish(&mut tx, 1, done.effects, Vec::new(), |_, _| Headers::default()).await.unwrap();
            assert_eq!(published(&mut tx, &mut told).await, events_of(expected), "{what}");
            assert_eq!(tables(&mut tx).await, visible(&state), "{what}");
            tx.commit().await.unwrap();
        }
    }
}

/// What the log says where the kernel is told of a refusal: the database finds it out.
fn as_sent(inputs: &[Input]) -> Vec<Input> {
    let as_sent = |input: &Input| match input {
        Input::Dialog { dialog_id, version, change: Change::Refused(message, _) } => {
            assert_eq!(message.author_id, OUTCAST);
            Input::Dialog { dialog_id: *dialog_id, version: *version, change: Change::Sent(*message, 0) }
        }
        other => other.clone(),
    };
    inputs.iter().map(as_sent).collect()
}

fn events_of(effects: Effects) -> Vec<Kind> {
    let reads = effects.reads.iter().map(publish::marked);
    let changes = effects.changes.into_iter().map(|change| publish::changed(1, change));
    effects.answers.into_iter().map(publish::answered).chain(reads).chain(changes).collect()
}

/// What was written to the outbox since the last look.
async fn published(tx: &mut Tx, told: &mut i64) -> Vec<Kind> {
    let rows =
        query("select id, payload from outbox where id > $1 order by id").bind(*told).all(tx).await.unwrap();
    *told = rows.last().map_or(*told, |row| row.get("id").unwrap());
    rows.iter().map(|row| Kind::read(&row.get::<Vec<u8>>("payload").unwrap()).unwrap()).collect()
}

/// The kernel's state without users at version 0, for whom the tables may have a row or not.
fn visible(state: &State) -> State {
    let mut state = state.clone();
    state.users.retain(|_, version| *version > 0);
    state
}

/// The tables as the kernel's state.
pub(crate) async fn tables(tx: &mut Tx) -> State {
    let mut state = State::default();
    for row in query("select * from dialog_applied").all(&mut *tx).await.unwrap() {
        let applied = Applied {
            version: row.get("version").unwrap(),
            last_seq: row.get("last_seq").unwrap(),
            last_at_us: row.get("last_at_us").unwrap(),
            missing: super::lock::missing(&row.get::<String>("missing").unwrap()),
        };
        let dialog = Dialog { applied, ..Dialog::default() };
        state.dialogs.insert(DialogId::new(row.get("dialog_id").unwrap()), dialog);
    }
    for row in query("select * from member_counter").all(&mut *tx).await.unwrap() {
        let joined_seq: Option<i64> = row.get("joined_seq").unwrap();
        let membership = match (joined_seq, row.get("has_left").unwrap()) {
            (Some(joined_seq), false) => Membership::Joined(joined_seq),
            (None, true) => Membership::Left,
            (None, false) => Membership::Unknown,
            (Some(_), true) => panic!("somebody who has left has no joined_seq"),
        };
        let member = Member {
            version: row.get("membership_version").unwrap(),
            membership,
            read_seq: row.get("read_seq").unwrap(),
            unread: row.get("unread").unwrap(),
        };
        let dialog = state.dialogs.entry(DialogId::new(row.get("dialog_id").unwrap())).or_default();
        dialog.members.insert(UserId::new(row.get("user_id").unwrap()), member);
    }
    for row in query("select * from ledger").all(&mut *tx).await.unwrap() {
        let why: Option<String> = row.get("why").unwrap();
        let standing = match why.as_deref() {
            None => Standing::Counted,
            Some("deleted") => Standing::Void(Why::Deleted),
            Some(_) => Standing::Void(Why::Refused(row.get("reason").unwrap())),
        };
        let entry = Entry {
            message_id: MessageId::new(row.get("message_id").unwrap()),
            author_id: UserId::new(row.get("author_id").unwrap()),
            standing,
        };
        let dialog = state.dialogs.entry(DialogId::new(row.get("dialog_id").unwrap())).or_default();
        dialog.ledger.insert(row.get("seq").unwrap(), entry);
    }
    let users = query("select * from user_version where version > 0").all(tx).await.unwrap();
    let users =
        users.iter().map(|row| (UserId::new(row.get("user_id").unwrap()), row.get("version").unwrap()));
    state.users = users.collect::<BTreeMap<UserId, i64>>();
    state
}
