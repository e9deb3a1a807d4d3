//! The chat itself: turns at the stated rate, a bounded number of them at a time. Whatever a slow server
//! delays is left out, not made up for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    api::{Api, Error},
    person::Person,
    plan::{self, Turn},
    report::StatusLine,
};
use crate::{process::StopSignals, settings::Demo};

/// Turns that run at the same time.
const RUNNING_MAX: usize = 32;
/// Interval of the status line.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Dialog of the demo.
#[derive(Debug)]
pub struct Dialog {
    pub id: String,
    /// Indices of the participants.
    pub members: Vec<usize>,
}

/// People and their dialogs.
#[derive(Debug)]
pub struct Chat {
    pub api: Api,
    pub people: Vec<Person>,
    pub dialogs: Vec<Dialog>,
    /// The first operation that failed.
    pub first_error: Mutex<Option<Error>>,
    /// Turns that were left out because too many were running.
    pub left_out: AtomicU64,
}

impl Chat {
    /// Runs turns until the time is over, the number of messages is reached or a signal arrives. Returns the
    /// time that it took.
    pub async fn run(self: &Arc<Self>, settings: &Demo, signals: &mut StopSignals) -> Duration {
        let start = Instant::now();
        let mut ticks = interval(Duration::from_secs(1) / settings.rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut status_ticks = interval(STATUS_INTERVAL);
        let mut status = StatusLine::new();
        let members: Vec<Vec<usize>> = self.dialogs.iter().map(|dialog| dialog.members.clone()).collect();
        let mut turns_left = settings.messages.unwrap_or(u64::MAX);
        let mut turns = JoinSet::new();
        while turns_left > 0 {
            tokio::select! {
                _ = ticks.tick() => {
                    if turns.len() >= RUNNING_MAX {
                        self.left_out.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    turns_left -= 1;
                    let unread: Vec<i64> = self.people.iter().map(|person| person.badge().total).collect();
                    let turn = plan::turn(&members, &unread, &mut random);
                    turns.spawn(Arc::clone(self).take(turn));
                }
                Some(_) = turns.join_next() => {}
                _ = status_ticks.tick() => status.show(start.elapsed(), &self.people),
                () = sleep_until(start + settings.length) => break,
                () = signals.next() => break,
            }
        }
        tokio::select! {
            _ = turns.join_all() => {}
            () = signals.next() => {}
        }
        status.clear();
        start.elapsed()
    }

    async fn take(self: Arc<Self>, turn: Turn) {
        let Turn { author, dialog, text, reader, deletes } = turn;
        let author = &self.people[author];
        let dialog = &self.dialogs[dialog].id;
        self.note(author, author.send(&self.api, dialog, text).await);
        if let Some(reader) = reader {
            let reader = &self.people[reader];
            self.note(reader, reader.read(&self.api, &mut random).await);
        }
        if deletes {
            self.note(author, author.delete(&self.api, dialog).await);
        }
    }

    fn note(&self, person: &Person, result: Result<(), Error>) {
        if let Err(error) = result {
            person.done.failed.fetch_add(1, Ordering::Relaxed);
            self.first_error.lock().get_or_insert(error);
        }
    }
}

/// Returns a random number below `below`.
fn random(below: usize) -> usize {
    // The low half of a random UUID has 62 random bits.
    let (_, bits) = uuid::Uuid::new_v4().as_u64_pair();
    (bits % below as u64) as usize
}
