//! Bounds of the state space, and the faults that can be planted.

use std::ops::RangeInclusive;

/// Limits of one run. Each limit is a number of steps of that kind in a history.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Dialogs. Message n is sent to dialog n modulo this number.
    pub dialogs: usize,
    /// Messages that the writer sends. Each has a client key of its own.
    pub messages: usize,
    /// Deletions. The first messages are deleted, in order.
    pub deletions: usize,
    /// Messages that the counter's database refuses.
    pub refusals: usize,
    /// Reads of the reader.
    pub reads: usize,
    /// True if the counter replies to dialog, which settles the messages.
    pub replies: bool,
    /// Cuts of the log in which dialog's consumer loses replies.
    pub cuts: usize,
    /// Reads of the counts that miss the cache.
    pub loads: usize,
    /// Connections of the device: the first one, and those that resume.
    pub connections: usize,
    /// Processes that crash, each once.
    pub crashes: &'static [Process],
    /// Optional steps together: deletions, refusals, reads, cuts, connections after the first, and crashes.
    pub optional_steps: usize,
    /// Records that the counter applies in one transaction.
    pub batches: RangeInclusive<usize>,
}

impl Bounds {
    /// Bounds of the saga: one dialog, without cache and device.
    pub fn saga(messages: usize) -> Self {
        Self {
            dialogs: 1,
            messages,
            deletions: 1,
            refusals: 1,
            reads: 1,
            replies: true,
            cuts: 1,
            loads: 0,
            connections: 0,
            crashes: &[Process::Dialog, Process::Counter],
            optional_steps: 3,
            batches: 1..=1,
        }
    }

    /// Bounds of the cache: changes of two dialogs, without replies and device.
    pub fn cache(messages: usize) -> Self {
        Self {
            dialogs: 2,
            refusals: 0,
            replies: false,
            cuts: 0,
            loads: 2,
            optional_steps: 2,
            batches: 1..=2,
            ..Self::saga(messages)
        }
    }

    /// Bounds of the device: changes of two dialogs, without replies and cache.
    pub fn device(messages: usize) -> Self {
        let crashes = &[Process::Counter, Process::Gateway];
        Self { loads: 0, connections: 2, crashes, ..Self::cache(messages) }
    }

    /// Bounds of everything together.
    pub fn whole(messages: usize) -> Self {
        Self {
            loads: 1,
            connections: 2,
            crashes: &[Process::Dialog, Process::Counter, Process::Gateway],
            optional_steps: 1,
            ..Self::saga(messages)
        }
    }
}

/// Process that can crash. The relay of a service is a part of its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Process {
    /// Dialog with its relay and its sweeper.
    Dialog,
    /// Counter with its relay and the writer of the cache.
    Counter,
    /// Gateway with its hub.
    Gateway,
}

/// Fault that is planted in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The counter stores the offset of a record before its effect.
    OffsetBeforeEffect,
    /// A settlement answers that a message is refused and stores no void entry.
    NoTombstone,
    /// The relay deletes a row before it publishes it.
    DeletionBeforePublication,
    /// The device resumes from a snapshot of the cache instead of the database.
    StaleSnapshot,
    /// The cache stores whatever has the newer version.
    NewerWins,
    /// Dialog does not claim the client key of a message.
    UnclaimedKey,
    /// The counter counts a repeated record again.
    NoLedgerCheck,
    /// Dialog does not ask for the outcome of overdue messages.
    NoSweeper,
    /// A settlement does not apply a message that is not in the ledger.
    NoLateCount,
    /// The device adds the rows of a snapshot to those that it has.
    MergedSnapshot,
}
