//! The interleavings of writers and a taker, as loom finds them: no change is slept through. A flag that is looked at and
//! waited for under two locks instead of one is caught.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    process::Command,
    task::{Context, Poll, Waker},
};

use loom::{
    future::block_on,
    sync::{Arc, Mutex},
    thread,
};

use super::Wake;

/// How often a thread is interrupted where it would go on, at most: with more the tests take minutes, and faults of two or
/// three threads show with fewer.
const PREEMPTIONS_MAX: usize = 3;

/// What a writer changes: a number that only grows, as versions do.
type Rows = Arc<Mutex<u32>>;

fn write(rows: &Rows, wake: &Wake) {
    *rows.lock().expect("no panic") += 1;
    wake.raise();
}

fn newer(rows: &Rows, seen: u32) -> Option<u32> {
    let now = *rows.lock().expect("no panic");
    (now > seen).then_some(now)
}

/// Writers on threads of their own beside this taker.
fn beside<T: Future<Output = ()>>(
    writers: u32,
    each: u32,
    taker: impl Fn(Rows, Wake) -> T + Sync + Send + 'static,
) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS_MAX);
    model.check(move || {
        let (rows, wake) = (Rows::new(Mutex::new(0)), Wake::new());
        let threads: Vec<_> = (0..writers)
            .map(|_| {
                let (rows, wake) = (rows.clone(), wake.clone());
                thread::spawn(move || (0..each).for_each(|_| write(&rows, &wake)))
            })
            .collect();
        block_on(taker(rows, wake));
        threads.into_iter().for_each(|thread| thread.join().expect("a writer ends"));
    });
}

async fn take_until(rows: Rows, wake: Wake, last: u32) {
    let mut seen = 0;
    while seen < last {
        seen = wake.next(|| newer(&rows, seen)).await;
    }
}

#[test]
fn a_writer_of_several_changes_is_heard_to_the_last() {
    beside(1, 2, |rows, wake| take_until(rows, wake, 2));
}

#[test]
fn two_writers_are_heard_to_the_last() {
    beside(2, 1, |rows, wake| take_until(rows, wake, 2));
}

#[test]
fn a_wait_that_was_dropped_loses_nothing() {
    beside(1, 2, |rows, wake| async move {
        {
            let mut dropped = pin!(wake.next(|| newer(&rows, 1)));
            let _looked = dropped.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
        take_until(rows, wake, 2).await;
    });
}

#[test]
fn a_raise_in_a_gap_between_look_and_wait_is_found() {
    let program = std::env::current_exe().expect("this program");
    let planted = ["--exact", "interleavings::a_gap_between_look_and_wait", "--ignored", "--nocapture"];
    let output = Command::new(program).args(planted).env("RUST_BACKTRACE", "0").output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("deadlock"), "{said}");
}

/// The planted fault. Where loom finds one it may end the process, so this has a process of its own.
#[test]
#[ignore = "the test above runs it and wants it to fail"]
fn a_gap_between_look_and_wait() {
    beside(1, 1, |rows, wake| async move {
        while newer(&rows, 0).is_none() {
            poll_fn(|context| {
                if std::mem::take(&mut wake.state().raised) {
                    return Poll::Ready(());
                }
                wake.state().waiting = Some(context.waker().clone());
                Poll::Pending
            })
            .await;
        }
    });
}
