//! Wake flag between writers and one reader: the reader sleeps until there may be something new. No
//! change is missed, and several raises before the reader runs wake it once.
//!
//! `make loom` checks the interleavings of threads; `--cfg loom` replaces only the lock.

use std::{
    future::poll_fn,
    task::{Context, Poll, Waker},
};

#[cfg(loom)]
use loom::sync::{Arc, Mutex, MutexGuard};
#[cfg(not(loom))]
use parking_lot::{Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::Arc;

/// Flag that one reader waits for. Cheap to clone; all clones share the flag.
///
/// Unlike `tokio::sync::Notify` it can be checked with loom.
#[derive(Clone, Debug)]
pub struct Wake(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    raised: bool,
    /// Waker of the waiting reader.
    waker: Option<Waker>,
}

impl Wake {
    /// Creates a flag that is not raised.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State { raised: false, waker: None })))
    }

    /// Raises the flag and wakes the reader. Call it after the change; it makes no difference whether
    /// the lock of the changed state is still held.
    pub fn raise(&self) {
        let waker = {
            let mut state = self.state();
            state.raised = true;
            state.waker.take()
        };
        // Outside the lock: a waker may run the reader on this thread.
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Calls `take` until it returns a value; after each `None` it waits for a raise. Only one reader
    /// may wait at a time.
    ///
    /// Cancel safe: dropping the future while it waits loses nothing.
    pub async fn next<T>(&self, mut take: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Some(taken) = take() {
                return taken;
            }
            self.raised().await;
        }
    }

    /// Waits until the flag is raised, and lowers it.
    pub async fn raised(&self) {
        poll_fn(|context| self.poll(context)).await;
    }

    /// Checks the flag and stores the waker under one lock; otherwise a raise between the two steps would
    /// be lost.
    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if std::mem::take(&mut state.raised) {
            return Poll::Ready(());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    #[cfg(not(loom))]
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    #[cfg(loom)]
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no thread panics while it holds the lock")
    }
}

impl Default for Wake {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, loom))]
mod interleavings;

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    struct WakeCounter(AtomicUsize);

    impl std::task::Wake for WakeCounter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn all_raises_before_a_wait_cause_one_call_and_so_do_all_raises_during_it() {
        let count = Arc::new(WakeCounter(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let wake = Wake::new();
        let mut calls = 0;
        wake.raise();
        wake.raise();
        {
            let mut next = pin!(wake.next(|| {
                calls += 1;
                None::<u8>
            }));
            assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            wake.raise();
            assert_eq!(count.0.load(Ordering::SeqCst), 1, "the waiting reader is woken");
            wake.raise();
            assert_eq!(count.0.load(Ordering::SeqCst), 1, "and only once");
            assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        assert_eq!(
            calls, 3,
            "the first call, one for the raises before it, one for the raises during the wait"
        );
        let mut value = Some(7);
        let mut next = pin!(wake.next(|| value.take()));
        assert_eq!(
            next.as_mut().poll(&mut Context::from_waker(&waker)),
            Poll::Ready(7),
            "an available value needs no raise"
        );
    }
}
