//! The flag between whoever changes something and the one who takes what has changed: a change is never slept through,
//! and any number of raises is one. `make loom` tries its interleavings (`--cfg loom` changes the lock alone).

#[cfg(loom)]
use loom::sync::{Arc, Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::{Arc, Mutex, MutexGuard};
use std::{
    future::poll_fn,
    sync::PoisonError,
    task::{Context, Poll, Waker},
};

/// A flag that one taker waits for. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Wake(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    raised: bool,
    waiting: Option<Waker>,
}

impl Wake {
    /// Not raised.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State { raised: false, waiting: None })))
    }

    /// Says that there may be something to take. To be called after the change, under the change's lock or not.
    pub fn raise(&self) {
        let waiting = {
            let mut state = self.state();
            state.raised = true;
            state.waiting.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    /// Takes what there is; where there is nothing, waits for a raise and looks again. For one taker at a time. Dropped
    /// while it waits, it loses nothing.
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

    /// Looks at the flag and leaves the waker under one lock: a raise between the two would be slept through.
    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if std::mem::take(&mut state.raised) {
            return Poll::Ready(());
        }
        state.waiting = Some(context.waker().clone());
        Poll::Pending
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn raises_before_and_during_the_wait_are_one_look_each() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let (wake, mut looks, mut there) = (Wake::new(), 0, None);
        wake.raise();
        wake.raise();
        {
            let mut next = pin!(wake.next(|| {
                looks += 1;
                None::<u8>
            }));
            assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            wake.raise();
            assert_eq!(count.0.load(Ordering::SeqCst), 1, "who waits is woken");
            wake.raise();
            assert_eq!(count.0.load(Ordering::SeqCst), 1, "once");
            assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        assert_eq!(looks, 3, "at first, for the raises before, for the raises since");
        there.replace(7);
        let mut next = pin!(wake.next(|| there.take()));
        assert_eq!(
            next.as_mut().poll(&mut Context::from_waker(&waker)),
            Poll::Ready(7),
            "what is there needs no raise"
        );
    }
}
