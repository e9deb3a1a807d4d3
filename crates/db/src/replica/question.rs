//! Question that is asked once for all who wait for its answer. An answer is for those only who asked before
//! the question was sent.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

type Asked<T> = Pin<Box<dyn Future<Output = Option<T>> + Send>>;

/// Question with its waiters. Cheap to clone; clones share them.
pub(crate) struct Question<T>(Arc<Asker<T>>);

struct Asker<T> {
    ask: Box<dyn Fn() -> Asked<T> + Send + Sync>,
    waiters: Mutex<Waiters<T>>,
    tasks: TaskTracker,
}

struct Waiters<T> {
    /// Waiters for the next question.
    next: Vec<oneshot::Sender<Option<T>>>,
    /// True while a task asks, which goes on with the next question.
    is_asking: bool,
}

impl<T: Clone + Send + 'static> Question<T> {
    /// Creates a question, which is asked by `ask` in a task of `tasks`. It must end; `None` means that there
    /// is no answer.
    pub(crate) fn new(tasks: TaskTracker, ask: impl Fn() -> Asked<T> + Send + Sync + 'static) -> Self {
        let waiters = Mutex::new(Waiters { next: Vec::new(), is_asking: false });
        Self(Arc::new(Asker { ask: Box::new(ask), waiters, tasks }))
    }

    /// Asks the question from now on, whether or not the receiver is polled.
    pub(crate) fn ask(&self) -> oneshot::Receiver<Option<T>> {
        let (sender, receiver) = oneshot::channel();
        let mut waiters = self.0.waiters.lock();
        waiters.next.push(sender);
        if !waiters.is_asking {
            waiters.is_asking = true;
            let asker = Arc::clone(&self.0);
            self.0.tasks.spawn(async move { asker.run().await });
        }
        receiver
    }
}

impl<T: Clone> Asker<T> {
    /// Asks until there are no waiters.
    async fn run(&self) {
        while let Some(waiters) = self.take() {
            let answer = (self.ask)().await;
            for waiter in waiters {
                // A waiter that has left needs no answer.
                drop(waiter.send(answer.clone()));
            }
        }
    }

    fn take(&self) -> Option<Vec<oneshot::Sender<Option<T>>>> {
        let mut waiters = self.waiters.lock();
        waiters.is_asking = !waiters.next.is_empty();
        waiters.is_asking.then(|| std::mem::take(&mut waiters.next))
    }
}

impl<T> fmt::Debug for Question<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// Question whose n-th answer is n, given when the semaphore permits.
    fn counting() -> (Question<u64>, Arc<AtomicU64>, Arc<Semaphore>) {
        let asked = Arc::new(AtomicU64::new(0));
        let permits = Arc::new(Semaphore::new(0));
        let counter = Arc::clone(&asked);
        let gate = Arc::clone(&permits);
        let question = Question::new(TaskTracker::new(), move || {
            let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
            let gate = Arc::clone(&gate);
            Box::pin(async move {
                gate.acquire().await.unwrap().forget();
                Some(number)
            })
        });
        (question, asked, permits)
    }

    async fn until_asked(asked: &AtomicU64, times: u64) {
        while asked.load(Ordering::SeqCst) < times {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn all_who_ask_while_a_question_is_on_its_way_share_the_next_answer() {
        let (question, asked, permits) = counting();
        let first = question.ask();
        until_asked(&asked, 1).await;
        let late: Vec<_> = (0..50).map(|_| question.ask()).collect();
        permits.add_permits(1);
        assert_eq!(first.await.unwrap(), Some(1));
        until_asked(&asked, 2).await;
        let later = question.ask();
        permits.add_permits(2);
        for waiter in late {
            assert_eq!(waiter.await.unwrap(), Some(2), "not the answer to the question before theirs");
        }
        assert_eq!(later.await.unwrap(), Some(3));
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_question_is_asked_while_its_receiver_is_not_polled_and_after_a_waiter_has_left() {
        let (question, asked, permits) = counting();
        drop(question.ask());
        until_asked(&asked, 1).await;
        permits.add_permits(2);
        let waiting = question.ask();
        until_asked(&asked, 2).await;
        assert_eq!(waiting.await.unwrap(), Some(2));
        permits.add_permits(1);
        assert_eq!(question.ask().await.unwrap(), Some(3), "the task has ended, and another one asks");
    }
}
