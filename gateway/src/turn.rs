//! Turns of an operation. Resolvers ask their loaders for one thing each; a turn ends when none of them can go on without
//! an answer, and only then each loader sends one batch. So the number of calls follows from the document alone and
//! never from timing, and no batch waits for a timer.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// The turns of one operation. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Turn(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    number: u64,
    waiting: Vec<Waker>,
}

impl Turn {
    /// Waits until the turn that is on now has ended. Only inside [`Turn::run`].
    pub async fn end(&self) {
        let begun = self.with(|state| state.number);
        poll_fn(|context| {
            self.with(|state| {
                if state.number > begun {
                    return Poll::Ready(());
                }
                state.waiting.push(context.waker().clone());
                Poll::Pending
            })
        })
        .await;
    }

    /// Runs an operation whose loaders wait for this turn's ends.
    pub async fn run<W: Future>(&self, work: W) -> W::Output {
        let mut work = pin!(work);
        poll_fn(|context| {
            let progress =
                Arc::new(Progress { made: AtomicBool::new(false), outer: context.waker().clone() });
            let waker = Waker::from(progress.clone());
            let answer = work.as_mut().poll(&mut Context::from_waker(&waker));
            // Whoever was woken meanwhile is polled once more before the turn ends.
            if answer.is_pending() && !progress.made.load(Ordering::Acquire) {
                self.next();
            }
            answer
        })
        .await
    }

    fn next(&self) {
        let waiting = self.with(|state| {
            state.number += u64::from(!state.waiting.is_empty());
            std::mem::take(&mut state.waiting)
        });
        waiting.into_iter().for_each(Waker::wake);
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Passes wake-ups on and remembers that there was one.
struct Progress {
    made: AtomicBool,
    outer: Waker,
}

impl Wake for Progress {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.made.store(true, Ordering::Release);
        self.outer.wake_by_ref();
    }
}
