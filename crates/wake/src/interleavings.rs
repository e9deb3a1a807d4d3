//! Interleavings of writers and the reader, explored by loom: no change is missed. One test injects a
//! fault, checking the flag and storing the waker under two separate locks, and expects loom to find it.

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

/// Maximum number of preemptions per execution. With more the tests take minutes; faults between two or
/// three threads need fewer.
const PREEMPTIONS_MAX: usize = 3;

/// State that the writers change: a version number.
type Version = Arc<Mutex<u32>>;

fn write(version: &Version, wake: &Wake) {
    *version.lock().expect("no thread panics") += 1;
    wake.raise();
}

fn newer(version: &Version, seen: u32) -> Option<u32> {
    let now = *version.lock().expect("no thread panics");
    (now > seen).then_some(now)
}

/// Explores the interleavings of one reader with `writers` threads of `each` changes.
fn explore<T: Future<Output = ()>>(
    writers: u32,
    each: u32,
    reader: impl Fn(Version, Wake) -> T + Sync + Send + 'static,
) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS_MAX);
    model.check(move || {
        let version = Version::new(Mutex::new(0));
        let wake = Wake::new();
        let threads: Vec<_> = (0..writers)
            .map(|_| {
                let version = version.clone();
                let wake = wake.clone();
                thread::spawn(move || (0..each).for_each(|_| write(&version, &wake)))
            })
            .collect();
        block_on(reader(version, wake));
        threads.into_iter().for_each(|thread| thread.join().expect("a writer completes"));
    });
}

async fn read_until(version: Version, wake: Wake, last: u32) {
    let mut seen = 0;
    while seen < last {
        seen = wake.next(|| newer(&version, seen)).await;
    }
}

#[test]
fn the_last_of_several_changes_is_read() {
    explore(1, 2, |version, wake| read_until(version, wake, 2));
}

#[test]
fn the_last_change_of_two_writers_is_read() {
    explore(2, 1, |version, wake| read_until(version, wake, 2));
}

#[test]
fn a_cancelled_wait_loses_nothing() {
    explore(1, 2, |version, wake| async move {
        {
            let mut cancelled = pin!(wake.next(|| newer(&version, 1)));
            let _pending = cancelled.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
        read_until(version, wake, 2).await;
    });
}

#[test]
fn a_gap_between_check_and_wait_is_found() {
    let program = std::env::current_exe().expect("the path of this program");
    let injected =
        ["--exact", "interleavings::injected_gap_between_check_and_wait", "--ignored", "--nocapture"];
    let output =
        Command::new(program).args(injected).env("RUST_BACKTRACE", "0").output().expect("the program starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("deadlock"), "{stderr}");
}

/// The injected fault. It runs in a separate process, because loom may abort the process when it finds a
/// fault.
#[test]
#[ignore = "run by the test above, which expects it to fail"]
fn injected_gap_between_check_and_wait() {
    explore(1, 1, |version, wake| async move {
        while newer(&version, 0).is_none() {
            poll_fn(|context| {
                if std::mem::take(&mut wake.state().raised) {
                    return Poll::Ready(());
                }
                wake.state().waker = Some(context.waker().clone());
                Poll::Pending
            })
            .await;
        }
    });
}
