//! Every target with a few inputs, so that each commit runs it; `make fuzz` runs many.

use std::cell::RefCell;

use fuzz::{Bodies, Documents, Events, Frames, Target, Texts, Tokens, seeded};
use proptest::{
    collection::vec,
    prelude::{ProptestConfig, any},
    test_runner::TestRunner,
};

fn few(target: impl Target, cases: u32) {
    let target = RefCell::new(target);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let bent = TestRunner::new(config.clone()).run(&any::<u64>(), |number| {
        target.borrow_mut().bent(&mut seeded(number));
        Ok(())
    });
    bent.unwrap_or_else(|found| panic!("{}: {found}", target.borrow().name()));
    let raw = TestRunner::new(config).run(&vec(any::<u8>(), 0..300), |bytes| {
        target.borrow_mut().raw(&bytes);
        Ok(())
    });
    raw.unwrap_or_else(|found| panic!("{}: {found}", target.borrow().name()));
}

#[test]
fn socket_frames_keep_the_protocols_promises() {
    few(Frames::new(), 300);
}

#[test]
fn documents_are_admitted_or_refused() {
    few(Documents::new(true), 150);
    few(Documents::new(false), 150);
}

#[test]
fn bodies_and_query_strings_are_read_or_refused() {
    few(Bodies, 500);
}

#[test]
fn cursors_and_versions_have_one_spelling() {
    few(Texts, 1_000);
}

#[test]
fn nothing_is_believed_but_what_was_signed() {
    few(Tokens::new(), 200);
}

#[test]
fn events_are_read_or_refused() {
    few(Events, 1_000);
}
