//! Threads that compute password hashes: their own, at low priority, fewer than there are cores. Other work
//! of the process therefore always finds a core, and takes the rest of the time from the hashes where it
//! needs it.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::process::{getpriority_process, setpriority_process};
use tokio::time::Instant;

use super::{
    hasher::Hasher,
    queue::{FairQueue, Full, Requester},
};

/// Nice value of the threads. Against another busy thread a hash gets a tenth of a core: little enough for
/// queries not to notice, enough for people to sign in while the machine is busy.
const NICE: i32 = 10;
/// Places in each lane of the queue for each thread: about half a second of work on an idle machine.
const PLACES: usize = 32;

/// Time after which a thread without work releases its 19 MiB.
const IDLE: Duration = Duration::from_secs(10);

/// Work for a thread.
pub(super) struct Job {
    pub run: Box<dyn FnOnce(&mut Hasher) + Send>,
    /// Held by the caller as long as it waits for the result.
    pub caller: Weak<()>,
    /// A job that has not started by then is dropped.
    pub start_by: Instant,
}

impl Job {
    fn is_wanted(&self, now: Instant) -> bool {
        self.caller.strong_count() > 0 && now <= self.start_by
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("start_by", &self.start_by).finish_non_exhaustive()
    }
}

/// The threads and their queue. Dropping it drops the work that waits, and returns when the threads have
/// finished what they are computing.
#[derive(Debug)]
pub(super) struct Threads {
    shared: Arc<SharedQueue>,
    handles: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct SharedQueue {
    state: Mutex<State>,
    /// Notified for each new job, and when the queue closes.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    queue: FairQueue<Job>,
    closed: bool,
}

impl Threads {
    /// Starts one thread fewer than there are cores, at least one.
    pub(super) fn start() -> Self {
        Self::with_count(thread::available_parallelism().map_or(1, usize::from).saturating_sub(1).max(1))
    }

    fn with_count(count: usize) -> Self {
        let state = Mutex::new(State { queue: FairQueue::new(PLACES * count), closed: false });
        let shared = Arc::new(SharedQueue { state, changed: Condvar::new() });
        let start = |number: usize| {
            let shared = Arc::clone(&shared);
            let thread = thread::Builder::new().name(format!("password-{number}"));
            thread.spawn(move || shared.work()).expect("the operating system starts a thread")
        };
        let handles = (0..count).map(start).collect();
        Self { shared, handles }
    }

    /// Returns the number of threads.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.handles.len()
    }

    /// Queues a job.
    ///
    /// # Errors
    /// [`Full`]; the job is dropped.
    pub(super) fn submit(&self, requester: &Requester, job: Job) -> Result<(), Full> {
        let now = Instant::now();
        self.shared.state.lock().queue.push(requester, job, |job| job.is_wanted(now))?;
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.changed.notify_all();
        for handle in self.handles.drain(..) {
            if handle.join().is_err() {
                tracing::error!("a password thread has panicked");
            }
        }
    }
}

impl SharedQueue {
    /// Runs jobs until the queue closes.
    fn work(&self) {
        // On Linux a priority belongs to a thread, and `None` is the thread that calls. It is only lowered.
        let nice = getpriority_process(None).map_or(NICE, |own| own.max(NICE));
        if let Err(error) = setpriority_process(None, nice) {
            tracing::warn!(%error, "password threads run at the priority of other threads");
        }
        let mut hasher = Hasher::default();
        while let Some(job) = self.next(&mut hasher) {
            // A panic costs its caller the answer, and not this thread.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (job.run)(&mut hasher))) {
                telemetry::panic::report("password", payload.as_ref());
            }
        }
    }

    /// Waits for the next job that is still wanted. Returns `None` when the queue has closed. A thread that
    /// is idle for a time releases its memory.
    fn next(&self, hasher: &mut Hasher) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            match state.queue.pop() {
                Some(job) if job.is_wanted(Instant::now()) => return Some(job),
                Some(_) => metrics::counter!("auth_password_dropped_total").increment(1),
                None => {
                    if self.changed.wait_for(&mut state, IDLE).timed_out() {
                        MutexGuard::unlocked(&mut state, || hasher.release());
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Returns a job that reports to `done`, and what its caller holds.
    fn job(done: &mpsc::Sender<u32>, number: u32) -> (Job, Arc<()>) {
        let caller = Arc::new(());
        let done = done.clone();
        let run = Box::new(move |_: &mut Hasher| done.send(number).unwrap());
        (Job { run, caller: Arc::downgrade(&caller), start_by: Instant::now() + MINUTE }, caller)
    }

    /// Returns a job that holds its thread until the returned sender is used or dropped.
    fn blocking(threads: &Threads) -> (mpsc::Sender<()>, Arc<()>) {
        let (finish, finished) = mpsc::channel();
        let (start, started) = mpsc::channel();
        let caller = Arc::new(());
        let run = Box::new(move |_: &mut Hasher| {
            start.send(()).unwrap();
            let _ = finished.recv();
        });
        let job = Job { run, caller: Arc::downgrade(&caller), start_by: Instant::now() + MINUTE };
        threads.submit(&Requester::any(), job).unwrap();
        started.recv().unwrap();
        (finish, caller)
    }

    #[test]
    fn work_runs_on_a_thread_of_low_priority() {
        let threads = Threads::with_count(1);
        let (send, received) = mpsc::channel();
        let caller = Arc::new(());
        let run = Box::new(move |_: &mut Hasher| send.send(getpriority_process(None).unwrap()).unwrap());
        let job = Job { run, caller: Arc::downgrade(&caller), start_by: Instant::now() + MINUTE };
        threads.submit(&Requester::any(), job).unwrap();
        assert_eq!(received.recv().unwrap(), getpriority_process(None).unwrap().max(NICE));
    }

    #[test]
    fn work_whose_caller_has_left_or_whose_time_is_over_is_dropped_before_it_runs() {
        let threads = Threads::with_count(1);
        let (done, received) = mpsc::channel();
        let (finish, _caller) = blocking(&threads);
        let (left, caller) = job(&done, 1);
        threads.submit(&Requester::any(), left).unwrap();
        drop(caller);
        let (late, _late) = job(&done, 2);
        threads.submit(&Requester::any(), Job { start_by: Instant::now(), ..late }).unwrap();
        let (wanted, _wanted) = job(&done, 3);
        threads.submit(&Requester::any(), wanted).unwrap();
        drop(finish);
        assert_eq!(received.recv().unwrap(), 3);
        assert!(received.try_recv().is_err());
    }

    #[test]
    fn dropping_the_threads_drops_the_work_that_waits() {
        let threads = Threads::with_count(2);
        let (done, received) = mpsc::channel();
        let blocked = [blocking(&threads), blocking(&threads)];
        let (waiting, _caller) = job(&done, 1);
        threads.submit(&Requester::any(), waiting).unwrap();
        drop(done);
        threads.shared.state.lock().closed = true;
        drop(blocked);
        drop(threads);
        assert!(received.recv().is_err(), "the job is gone, and it has not run");
    }
}
