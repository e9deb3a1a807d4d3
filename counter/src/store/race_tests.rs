//! What the store promises when several write at once, and when the database refuses: on SQLite writers follow one
//! another, on Postgres they meet.

use db::{Db, Dialect, query};
use proto::{DialogId, MessageId, UserId};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    REFUSED, parts,
    tests::{databases, tables},
    transact,
};
use crate::kernel::{
    Change, Effects, Input, Membership, State, UnreadChange,
    ledger::{Message, Standing, Why},
};

const DIALOGS: usize = 4;
const MESSAGES: i64 = 60;

fn at(dialog_id: DialogId, change: Change) -> Input {
    Input::Dialog { dialog_id, version: None, change }
}

fn message(seq: i64, author_id: UserId) -> Message {
    Message { seq, id: MessageId::now(), author_id }
}

fn joins(dialog_id: DialogId, people: &[UserId]) -> Vec<Input> {
    let join =
        |user_id: &UserId| at(dialog_id, Change::Joined { user_id: *user_id, version: 1, joined_seq: 0 });
    people.iter().map(join).collect()
}

async fn write(db: &Db, inputs: &[Input]) -> Effects {
    let mut tx = db.begin().await.unwrap();
    let done = transact(&mut tx, inputs).await.unwrap();
    assert_eq!(done.refused, Vec::<usize>::new());
    tx.commit().await.unwrap();
    done.effects
}

/// I1 and I2, worked out from the tables.
fn assert_exact(state: &State, name: &str) {
    for dialog in state.dialogs.values() {
        for (user_id, member) in &dialog.members {
            let Membership::Joined(joined_seq) = member.membership else { continue };
            let counted = dialog.ledger.iter().filter(|(seq, entry)| {
                let above = **seq > joined_seq && **seq > member.read_seq;
                above && entry.standing == Standing::Counted && entry.author_id != *user_id
            });
            assert_eq!(member.unread, counted.count() as i64, "{name}: {dialog:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_and_counters_at_the_same_time_lose_nothing() {
    for test in databases().await {
        let people: Vec<UserId> = (0..DIALOGS).map(|_| UserId::now()).collect();
        let guests: Vec<UserId> = (0..2).map(|_| UserId::now()).collect();
        let dialogs: Vec<DialogId> = (0..DIALOGS).map(|_| DialogId::now()).collect();
        for dialog_id in &dialogs {
            write(&test.db, &joins(*dialog_id, &people)).await;
        }
        let mut tasks = Vec::new();
        for n in 0..DIALOGS {
            let (here, there) = (dialogs[n], dialogs[(n + 1) % DIALOGS]);
            tasks.push(tokio::spawn(talk(
                test.db.clone(),
                [here, there],
                people[n],
                people[DIALOGS - 1 - n],
            )));
        }
        tasks.extend(
            guests.iter().map(|guest| tokio::spawn(come_and_go(test.db.clone(), dialogs.clone(), *guest))),
        );
        tasks.extend(
            people.iter().map(|user_id| tokio::spawn(read(test.db.clone(), dialogs.clone(), *user_id))),
        );
        let mut changes = Vec::new();
        for task in tasks {
            changes.extend(task.await.unwrap());
        }
        let mut tx = test.db.begin().await.unwrap();
        let state = tables(&mut tx).await;
        tx.rollback().await.unwrap();
        assert_exact(&state, test.name);
        for user_id in people.iter().chain(&guests) {
            assert_frames_add_up(*user_id, &changes, &state, test.name);
        }
    }
}

/// Writes messages into one dialog and deletes some; now and then in one batch with a read in another dialog, where the
/// neighbour does it the other way round.
async fn talk(db: Db, [here, there]: [DialogId; 2], author_id: UserId, reader: UserId) -> Vec<UnreadChange> {
    let mut changes = Vec::new();
    for seq in 1..=MESSAGES {
        let message = message(seq, author_id);
        let mut inputs = vec![at(here, Change::Sent(message, seq))];
        if seq % 4 == 0 {
            inputs.insert(0, at(there, Change::Read { user_id: reader, up_to: seq / 2 }));
        }
        changes.extend(write(&db, &inputs).await.changes);
        if seq % 3 == 0 {
            changes.extend(write(&db, &[at(here, Change::Deleted(message))]).await.changes);
        }
    }
    changes
}

/// Joins every dialog in turn, leaves them and joins again.
async fn come_and_go(db: Db, dialogs: Vec<DialogId>, user_id: UserId) -> Vec<UnreadChange> {
    let mut changes = Vec::new();
    for version in 1..=MESSAGES {
        let change = match version / DIALOGS as i64 % 3 {
            1 => Change::Left { user_id, version },
            _ => Change::Joined { user_id, version, joined_seq: 0 },
        };
        changes.extend(write(&db, &[at(dialogs[version as usize % DIALOGS], change)]).await.changes);
    }
    changes
}

/// Reads here and there, stale and ahead.
async fn read(db: Db, dialogs: Vec<DialogId>, user_id: UserId) -> Vec<UnreadChange> {
    let mut rng = SmallRng::seed_from_u64(user_id.uuid().as_u64_pair().1);
    let mut changes = Vec::new();
    for n in 1..=MESSAGES {
        let up_to = rng.random_range(0..=n);
        let read = at(dialogs[rng.random_range(0..DIALOGS)], Change::Read { user_id, up_to });
        changes.extend(write(&db, &[read]).await.changes);
    }
    changes
}

/// I7: the versions told of a user have no gap, and every `was` is what the frame before has left.
fn assert_frames_add_up(user_id: UserId, changes: &[UnreadChange], state: &State, name: &str) {
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

/// `check (unread <= 2)`, as an operator would add it.
async fn limit(db: &Db) {
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

#[tokio::test]
async fn a_refused_message_is_found_in_its_batch_and_the_others_apply() {
    for test in databases().await {
        let [ada, bob] = [(); 2].map(|()| UserId::now());
        let (full, free) = (DialogId::now(), DialogId::now());
        limit(&test.db).await;
        write(&test.db, &joins(full, &[ada, bob])).await;
        write(&test.db, &joins(free, &[ada, bob])).await;
        let mut inputs: Vec<Input> =
            (1..=5).map(|seq| at(full, Change::Sent(message(seq, ada), seq))).collect();
        inputs.insert(3, at(free, Change::Sent(message(1, ada), 9)));
        let effects = write(&test.db, &inputs).await;
        let refused: Vec<i64> = effects
            .answers
            .iter()
            .filter(|answer| answer.refused.is_some())
            .map(|answer| answer.seq)
            .collect();
        assert_eq!(refused, [3, 4, 5], "{}", test.name);
        assert_eq!(effects.answers.len(), 6, "every message is answered");
        assert_eq!(
            (effects.changes.len(), effects.changes[0].version),
            (1, 1),
            "one step of one user, however cut"
        );
        let again = write(&test.db, &inputs).await;
        assert_eq!(again.answers, effects.answers, "a repetition is answered alike");
        assert!(again.changes.is_empty());
        // Reading makes room, and what was refused stays so.
        write(&test.db, &[at(full, Change::Read { user_id: bob, up_to: 5 })]).await;
        let next = write(&test.db, &[at(full, Change::Sent(message(6, ada), 6))]).await;
        assert_eq!(next.answers[0].refused, None);
        let mut tx = test.db.begin().await.unwrap();
        let state = tables(&mut tx).await;
        assert_exact(&state, test.name);
        let void = Standing::Void(Why::Refused(REFUSED.to_owned()));
        assert_eq!(state.dialogs[&full].ledger[&4].standing, void);
        tx.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn a_join_that_the_database_refuses_is_told_apart() {
    for test in databases().await {
        let [ada, bob] = [(); 2].map(|()| UserId::now());
        let dialog_id = DialogId::now();
        write(&test.db, &joins(dialog_id, &[ada])).await;
        let sent: Vec<Input> =
            (1..=3).map(|seq| at(dialog_id, Change::Sent(message(seq, ada), seq))).collect();
        write(&test.db, &sent).await;
        limit(&test.db).await;
        let mut tx = test.db.begin().await.unwrap();
        let join = at(dialog_id, Change::Joined { user_id: bob, version: 2, joined_seq: 0 });
        let fourth = at(dialog_id, Change::Sent(message(4, bob), 4));
        let done = transact(&mut tx, &[join, fourth]).await.unwrap();
        assert_eq!(done.refused, [0], "{}: for the dead letters", test.name);
        assert_eq!(done.effects.answers.len(), 1, "what came with it applies");
        assert_eq!(tables(&mut tx).await.users.get(&ada), Some(&1));
        tx.rollback().await.unwrap();
    }
}

#[test]
fn a_part_never_both_counts_and_voids_a_message() {
    let dialog_id = DialogId::now();
    let (first, second) = (message(1, UserId::now()), message(2, UserId::now()));
    let [sent, other] = [first, second].map(|message| at(dialog_id, Change::Sent(message, 1)));
    let deleted = at(dialog_id, Change::Deleted(first));
    assert!(parts(&[]).is_empty());
    assert_eq!(parts(&[sent.clone(), sent.clone(), other.clone()]).len(), 1);
    assert_eq!(
        parts(&[sent.clone(), other.clone(), deleted.clone(), other, deleted, sent]),
        [0..2, 2..5, 5..6]
    );
}
