//! Concurrent writers, and refusals by the database. On Postgres the writers race; on SQLite they run
//! one after another.

use db::{Db, Dialect, query};
use proto::{DialogId, MessageId, UserId};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    REFUSAL_REASON, batches,
    tests::{databases, load_state},
    transact,
};
use crate::{
    Error,
    kernel::{
        Change, Effects, Input, Membership, State, UnreadChange,
        ledger::{EntryState, Message},
    },
};

const DIALOGS: usize = 4;
const MESSAGES: i64 = 60;

fn input(dialog_id: DialogId, change: Change) -> Input {
    Input::Dialog { dialog_id, version: None, change }
}

fn message(seq: i64, author_id: UserId) -> Message {
    Message { seq, id: MessageId::now(), author_id }
}

fn joins(dialog_id: DialogId, users: &[UserId]) -> Vec<Input> {
    let join =
        |user_id: &UserId| input(dialog_id, Change::Joined { user_id: *user_id, version: 1, joined_seq: 0 });
    users.iter().map(join).collect()
}

async fn write(db: &Db, inputs: &[Input]) -> Effects {
    let mut tx = db.begin().await.unwrap();
    let outcome = transact(&mut tx, inputs).await.unwrap();
    tx.commit().await.unwrap();
    outcome.effects
}

/// Asserts I1: every count is the one that its definition gives.
fn assert_exact(state: &State, name: &str) {
    for dialog in state.dialogs.values() {
        for (user_id, member) in &dialog.members {
            let Membership::Joined(joined_seq) = member.membership else { continue };
            let counted = dialog.ledger.iter().filter(|(seq, entry)| {
                let above = **seq > joined_seq && **seq > member.read_seq;
                above && entry.state == EntryState::Counted && entry.author_id != *user_id
            });
            assert_eq!(member.unread, counted.count() as i64, "{name}: {dialog:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_keep_every_count_exact() {
    for test in databases().await {
        let members: Vec<UserId> = (0..DIALOGS).map(|_| UserId::now()).collect();
        let guests: Vec<UserId> = (0..2).map(|_| UserId::now()).collect();
        let dialogs: Vec<DialogId> = (0..DIALOGS).map(|_| DialogId::now()).collect();
        let mut changes = Vec::new();
        for dialog_id in &dialogs {
            changes.extend(write(&test.db, &joins(*dialog_id, &members)).await.changes);
        }
        let mut tasks = Vec::new();
        for n in 0..DIALOGS {
            let own = dialogs[n];
            let other = dialogs[(n + 1) % DIALOGS];
            tasks.push(tokio::spawn(send_and_delete(
                test.db.clone(),
                [own, other],
                members[n],
                members[DIALOGS - 1 - n],
            )));
        }
        tasks.extend(
            guests.iter().map(|guest| tokio::spawn(join_and_leave(test.db.clone(), dialogs.clone(), *guest))),
        );
        tasks.extend(
            members.iter().map(|user_id| tokio::spawn(read(test.db.clone(), dialogs.clone(), *user_id))),
        );
        for task in tasks {
            changes.extend(task.await.unwrap());
        }
        let mut tx = test.db.begin().await.unwrap();
        let state = load_state(&mut tx).await;
        tx.rollback().await.unwrap();
        assert_exact(&state, test.name);
        for user_id in members.iter().chain(&guests) {
            assert_changes_add_up(*user_id, &changes, &state, test.name);
        }
    }
}

/// Sends messages in its own dialog and deletes some. Every fourth message shares a batch with a read in
/// another dialog, whose task does the reverse: without sorted locks the two would deadlock.
async fn send_and_delete(
    db: Db,
    [own, other]: [DialogId; 2],
    author_id: UserId,
    reader: UserId,
) -> Vec<UnreadChange> {
    let mut changes = Vec::new();
    for seq in 1..=MESSAGES {
        let message = message(seq, author_id);
        let mut inputs = vec![input(own, Change::Sent(message, seq))];
        if seq % 4 == 0 {
            inputs.insert(0, input(other, Change::Read { user_id: reader, up_to: seq / 2 }));
        }
        changes.extend(write(&db, &inputs).await.changes);
        if seq % 3 == 0 {
            changes.extend(write(&db, &[input(own, Change::Deleted(message))]).await.changes);
        }
    }
    changes
}

/// Joins every dialog in turn, leaves them and joins again.
async fn join_and_leave(db: Db, dialogs: Vec<DialogId>, user_id: UserId) -> Vec<UnreadChange> {
    let mut changes = Vec::new();
    for version in 1..=MESSAGES {
        let change = match version / DIALOGS as i64 % 3 {
            1 => Change::Left { user_id, version },
            _ => Change::Joined { user_id, version, joined_seq: 0 },
        };
        changes.extend(write(&db, &[input(dialogs[version as usize % DIALOGS], change)]).await.changes);
    }
    changes
}

/// Reads random dialogs, behind and ahead of the ledger.
async fn read(db: Db, dialogs: Vec<DialogId>, user_id: UserId) -> Vec<UnreadChange> {
    let mut rng = SmallRng::seed_from_u64(user_id.uuid().as_u64_pair().1);
    let mut changes = Vec::new();
    for n in 1..=MESSAGES {
        let up_to = rng.random_range(0..=n);
        let read = input(dialogs[rng.random_range(0..DIALOGS)], Change::Read { user_id, up_to });
        changes.extend(write(&db, &[read]).await.changes);
    }
    changes
}

/// Asserts I7: a user's versions have no gap, every `was` is the value of the change before, and the sum
/// is the state.
fn assert_changes_add_up(user_id: UserId, changes: &[UnreadChange], state: &State, name: &str) {
    let mut own: Vec<&UnreadChange> = changes.iter().filter(|change| change.user_id == user_id).collect();
    own.sort_by_key(|change| change.version);
    let mut known = std::collections::BTreeMap::new();
    for (change, version) in own.iter().zip(1..) {
        assert_eq!(change.version, version, "{name}");
        for row in &change.rows {
            assert_eq!(known.insert(row.dialog_id, row.unread).unwrap_or(0), row.was, "{name}");
        }
    }
    assert_eq!(own.len() as i64, state.users.get(&user_id).copied().unwrap_or(0), "{name}");
    for (dialog_id, dialog) in &state.dialogs {
        let unread = dialog.members.get(&user_id).map_or(0, |member| member.unread);
        assert_eq!(known.get(dialog_id).copied().unwrap_or(0), unread, "{name}");
    }
}

/// Adds `check (unread <= 2)`, as an operator could.
async fn add_limit(db: &Db) {
    let mut tx = db.begin().await.unwrap();
    let rule = match tx.dialect() {
        Dialect::Sqlite => {
            "create trigger refuse before update on member_counter when new.unread > 2
             begin select raise(abort, 'refuse'); end"
        }
        Dialect::Postgres => "alter table member_counter add constraint refuse check (unread <= 2)",
    };
    query(rule).execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
}

async fn drop_limit(db: &Db) {
    let mut tx = db.begin().await.unwrap();
    let drop = match tx.dialect() {
        Dialect::Sqlite => "drop trigger refuse",
        Dialect::Postgres => "alter table member_counter drop constraint refuse",
    };
    query(drop).execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_refused_message_is_found_by_bisection_and_the_others_apply() {
    for test in databases().await {
        let [ada, bob] = [(); 2].map(|()| UserId::now());
        let full = DialogId::now();
        let free = DialogId::now();
        add_limit(&test.db).await;
        write(&test.db, &joins(full, &[ada, bob])).await;
        write(&test.db, &joins(free, &[ada, bob])).await;
        let mut inputs: Vec<Input> =
            (1..=5).map(|seq| input(full, Change::Sent(message(seq, ada), seq))).collect();
        inputs.insert(3, input(free, Change::Sent(message(1, ada), 9)));
        let effects = write(&test.db, &inputs).await;
        let refused: Vec<i64> =
            effects.replies.iter().filter(|reply| reply.refused.is_some()).map(|reply| reply.seq).collect();
        assert_eq!(refused, [3, 4, 5], "{}", test.name);
        assert_eq!(effects.replies.len(), 6, "every message has a reply");
        let versions: Vec<i64> = effects.changes.iter().map(|change| change.version).collect();
        assert_eq!(versions, [3, 3], "one step of each user after the two joins, however many batches");
        let repeated = write(&test.db, &inputs).await;
        assert_eq!(repeated.replies, effects.replies, "a repeated message gets the same reply");
        assert!(repeated.changes.is_empty());
        // After a read new messages are counted again, and refused messages stay refused.
        write(&test.db, &[input(full, Change::Read { user_id: bob, up_to: 5 })]).await;
        let next = write(&test.db, &[input(full, Change::Sent(message(6, ada), 6))]).await;
        assert_eq!(next.replies[0].refused, None);
        let mut tx = test.db.begin().await.unwrap();
        let state = load_state(&mut tx).await;
        assert_exact(&state, test.name);
        let void = EntryState::refused(REFUSAL_REASON);
        assert_eq!(state.dialogs[&full].ledger[&4].state, void);
        tx.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn a_refused_join_blocks_its_transaction_until_the_rule_is_dropped() {
    for test in databases().await {
        let [ada, bob] = [(); 2].map(|()| UserId::now());
        let dialog_id = DialogId::now();
        write(&test.db, &joins(dialog_id, &[ada])).await;
        let sent: Vec<Input> =
            (1..=3).map(|seq| input(dialog_id, Change::Sent(message(seq, ada), seq))).collect();
        write(&test.db, &sent).await;
        add_limit(&test.db).await;
        let join = input(dialog_id, Change::Joined { user_id: bob, version: 2, joined_seq: 0 });
        let fourth = input(dialog_id, Change::Sent(message(4, bob), 4));
        let inputs = [fourth, join.clone()];
        let mut tx = test.db.begin().await.unwrap();
        let blocked = transact(&mut tx, &inputs).await.unwrap_err();
        assert!(
            matches!(&blocked, Error::Blocked { rule, input } if rule == "refuse" && **input == join),
            "{}: {blocked}",
            test.name
        );
        tx.rollback().await.unwrap();
        drop_limit(&test.db).await;
        write(&test.db, &inputs).await;
        let mut tx = test.db.begin().await.unwrap();
        let state = load_state(&mut tx).await;
        assert_exact(&state, test.name);
        assert_eq!(state.dialogs[&dialog_id].members[&bob].unread, 3);
        tx.rollback().await.unwrap();
    }
}

#[test]
fn a_batch_never_counts_and_voids_one_message() {
    let dialog_id = DialogId::now();
    let first = message(1, UserId::now());
    let second = message(2, UserId::now());
    let [sent, other] = [first, second].map(|message| input(dialog_id, Change::Sent(message, 1)));
    let deleted = input(dialog_id, Change::Deleted(first));
    assert!(batches(&[]).is_empty());
    assert_eq!(batches(&[sent.clone(), sent.clone(), other.clone()]).len(), 1);
    assert_eq!(
        batches(&[sent.clone(), other.clone(), deleted.clone(), other, deleted, sent]),
        [0..2, 2..5, 5..6]
    );
}
