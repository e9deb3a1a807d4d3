//! Runs every target with a small number of inputs, as part of the test suite; `make fuzz` runs many more.

use std::cell::RefCell;

use fuzz::{Bodies, Documents, Events, Frames, Target, Texts, Tokens, seeded};
use proptest::{
    collection::vec,
    prelude::{ProptestConfig, any},
    test_runner::TestRunner,
};

fn run(target: impl Target, cases: u32) {
    let target = RefCell::new(target);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mutated = TestRunner::new(config.clone()).run(&any::<u64>(), |seed| {
        target.borrow_mut().mutated(&mut seeded(seed));
        Ok(())
    });
    mutated.unwrap_or_else(|found| panic!("{}: {found}", target.borrow().name()));
    let raw = TestRunner::new(config).run(&vec(any::<u8>(), 0..300), |bytes| {
        target.borrow_mut().raw(&bytes);
        Ok(())
    });
    raw.unwrap_or_else(|found| panic!("{}: {found}", target.borrow().name()));
}

#[test]
fn socket_frames_never_violate_the_protocol() {
    run(Frames::new(), 300);
}

#[test]
fn documents_never_cause_a_panic() {
    run(Documents::new(true), 150);
    run(Documents::new(false), 150);
}

#[test]
fn bodies_and_query_strings_never_cause_a_panic() {
    run(Bodies, 500);
}

#[test]
fn cursors_and_versions_have_one_spelling() {
    run(Texts, 1_000);
}

#[test]
fn only_signed_tokens_are_accepted() {
    run(Tokens::new(), 200);
}

#[test]
fn events_never_cause_a_panic() {
    run(Events, 1_000);
}
