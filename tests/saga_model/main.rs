//! Model of a message's saga and of the counts on their way to a device, checked in every order of its steps
//! with crashes between them. The rules are those of the services: the counter's kernel, settlement and
//! cache, dialog's transition of a status, and the gateway's hub. Databases, relays and the log are modelled.
//!
//! `MODEL_MESSAGES` (2) is the number of messages, and `MODEL_STEPS` (0) is added to the number of optional
//! steps: crashes, refusals, deletions, reads, cuts of the log and new connections.

#![expect(clippy::print_stdout, reason = "the size of the model is printed")]

mod bounds;
mod cache;
mod counter;
mod device;
mod dialog;
mod ids;
mod log;
mod properties;
mod system;

use std::{thread, time::Instant};

use bounds::{Bounds, Fault};
use stateright::{Checker, HasDiscoveries, Model};
use system::System;

/// Least number of states of a model that is worth the name.
const STATES_MIN: usize = 50_000;

/// Returns a number of the environment.
fn number(name: &str, default: usize) -> usize {
    let number = std::env::var(name).ok().map(|text| text.parse().expect("the variable is a number"));
    number.unwrap_or(default)
}

/// Number of messages of a model.
fn messages() -> usize {
    number("MODEL_MESSAGES", 2)
}

/// Visits every state within the bounds. Every invariant must hold in all of them, and every situation must
/// occur.
fn check(name: &str, mut bounds: Bounds) {
    bounds.optional_steps += number("MODEL_STEPS", 0);
    let start = Instant::now();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let checker = System { bounds, fault: None }.checker().threads(threads).spawn_bfs().join();
    let states = checker.unique_state_count();
    let depth = checker.max_depth();
    println!("{states} states of {name}, depth {depth}, {} s", start.elapsed().as_secs());
    checker.assert_properties();
    assert!(states > STATES_MIN, "{states} states");
}

#[test]
fn every_message_is_counted_once_or_fails_in_any_history() {
    check("the saga", Bounds::saga(messages()));
}

#[test]
fn the_cache_has_the_counts_of_its_version_in_any_history() {
    check("the cache", Bounds::cache(messages()));
}

#[test]
fn the_device_has_the_counts_of_its_version_in_any_history() {
    check("the device", Bounds::device(messages()));
}

#[test]
fn all_processes_together_keep_every_invariant() {
    check("all processes", Bounds::whole(messages().div_ceil(2)));
}

/// Planted faults, each with the invariant that it violates and the bounds of a model that shows it.
fn faults() -> Vec<(Fault, &'static str, Bounds)> {
    let saga = || Bounds { optional_steps: 2, ..Bounds::saga(2) };
    let device = || Bounds::device(2);
    let cache_and_device = Bounds { loads: 1, optional_steps: 1, ..Bounds::device(1) };
    vec![
        (Fault::NoLedgerCheck, properties::COUNTS, saga()),
        (Fault::OffsetBeforeEffect, properties::LEDGER_AT_REST, saga()),
        (Fault::DeletionBeforePublication, properties::LEDGER_AT_REST, saga()),
        (Fault::NoTombstone, properties::FAILED_IS_VOID, saga()),
        (Fault::NewerWins, properties::CACHE, Bounds::cache(2)),
        (Fault::MergedSnapshot, properties::DEVICE, device()),
        (Fault::DeletionBeforePublication, properties::DEVICE_AT_REST, device()),
        (Fault::StaleSnapshot, properties::DEVICE_AT_REST, cache_and_device),
        (Fault::UnclaimedKey, properties::KEYS, saga()),
        (Fault::NoLateCount, properties::ONE_SWEEP, saga()),
        (Fault::NoSweeper, properties::NONE_PENDING, saga()),
        (Fault::NoSweeper, properties::SETTLED, saga()),
        (Fault::DeletionBeforePublication, properties::NO_GAP, saga()),
    ]
}

#[test]
fn every_planted_fault_violates_its_invariant() {
    for (fault, property, bounds) in faults() {
        let found = HasDiscoveries::AllOf([property].into());
        let model = System { bounds, fault: Some(fault) };
        // On one thread, so that every run finds the same history.
        let checker = model.checker().finish_when(found).spawn_bfs().join();
        let path = checker.discovery(property);
        let path = path.unwrap_or_else(|| panic!("{fault:?} does not violate \"{property}\""));
        let steps = path.into_actions();
        println!("{fault:?} violates {property} after {} steps: {steps:?}", steps.len());
    }
}

#[test]
fn every_invariant_is_violated_by_a_planted_fault() {
    let violated: Vec<&str> = faults().iter().map(|(_, property, _)| *property).collect();
    let invariants = properties::of(&Bounds::whole(1)).into_iter();
    for property in invariants.filter(|property| property.expectation.discovery_is_failure()) {
        assert!(violated.contains(&property.name), "no fault violates \"{}\"", property.name);
    }
}
