//! Property tests: random histories against the oracle and the invariants of [`super`].

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use super::{Membership, State, apply, history, invariants, transact};

/// Number of histories that `cargo test` runs; `HISTORIES` in the environment is another one.
const HISTORIES: u64 = 100_000;

fn number_of_histories() -> u64 {
    let number = std::env::var("HISTORIES").ok().map(|text| text.parse().expect("HISTORIES is a number"));
    number.unwrap_or(HISTORIES)
}

#[test]
fn a_hundred_thousand_histories_keep_every_invariant() {
    let histories = number_of_histories();
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let transactions: usize = thread::scope(|scope| {
        let work = || {
            let mut transactions = 0;
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= histories {
                    return transactions;
                }
                let history = history::random(seed, 1);
                transactions += history.transactions.len();
                if let Err(violation) = invariants::check(&history, apply) {
                    panic!("history {seed}: {violation}");
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("an invariant is violated, see the message above"))
            .sum()
    });
    assert!(
        transactions as u64 > histories * 10,
        "the histories are too short to test anything: {transactions} transactions"
    );
}

#[test]
fn random_histories_contain_every_kind_of_disturbance() {
    // Divergences, repairs, refusals, gaps, counts above one, members who left, changes with several
    // rows.
    let mut seen = [0_u32; 7];
    for seed in 0..2_000 {
        let history = history::random(seed, 1);
        let mut state = State::default();
        let mut effects = Vec::new();
        for inputs in &history.transactions {
            effects.push(transact(&mut state, inputs));
        }
        let members = || state.dialogs.values().flat_map(|dialog| dialog.members.values());
        seen[0] += u32::from(history.diverges && effects.iter().any(|each| !each.divergences.is_empty()));
        seen[1] += u32::from(history.repairs);
        seen[2] +=
            u32::from(effects.iter().any(|each| each.replies.iter().any(|reply| reply.refused.is_some())));
        seen[3] += u32::from(state.dialogs.values().any(|dialog| !dialog.applied.missing.is_empty()));
        seen[4] += u32::from(members().any(|member| member.unread > 1));
        seen[5] += u32::from(members().any(|member| member.membership == Membership::Left));
        seen[6] +=
            u32::from(effects.iter().any(|each| each.changes.iter().any(|change| change.rows.len() > 1)));
    }
    assert!(seen.iter().all(|count| *count > 20), "of 2,000 histories, by kind: {seen:?}");
}

/// Applies the transactions of one history `REPEAT` times, for a count of its instructions
/// (`tests/instructions`).
#[test]
#[ignore = "measured by tests/instructions"]
fn one_history() {
    let history = history::random(7, 1);
    let repeat: u32 = std::env::var("REPEAT").expect("REPEAT is set").parse().expect("a number");
    for _ in 0..repeat {
        let mut state = State::default();
        history.transactions.iter().for_each(|inputs| drop(transact(&mut state, inputs)));
    }
}
