//! Cache of the reader's counts, with the rules of the counter: its writer consumes the changes, and reads
//! of the counts fill it. The cursor of the writer is stored after the write, so a crash repeats a record.

use std::sync::Arc;

use counter::rules::{Delta, Entry, Unread, parse_delta};

use crate::{
    bounds::Fault,
    counter::Counter,
    log::{Log, Record},
};

/// Cached entry of the reader, its writer, and the reads that are in flight.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cache {
    /// The entry, if any.
    pub entry: Option<Entry>,
    /// Record that was applied last.
    last: Option<Record>,
    /// Number of reads that missed the cache so far.
    pub misses: usize,
    loads: Vec<Load>,
}

/// Read of the counts that has missed the cache. A crash ends it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Load {
    ticket: u64,
    /// Counts of the database, once they are read.
    unread: Option<Unread>,
}

impl Cache {
    /// Creates an empty cache.
    pub fn new() -> Self {
        Self { entry: None, last: None, misses: 0, loads: Vec::new() }
    }

    /// Returns the cached counts.
    pub fn unread(&self) -> Option<Unread> {
        self.entry.as_ref().and_then(Entry::unread)
    }

    /// Applies the next change to the entry.
    pub fn write(&mut self, log: &mut Log, fault: Option<Fault>) -> bool {
        let Some(record) = log.cache_changes.pop_front() else { return false };
        if let Some(entry) = &self.entry {
            let delta = delta(&record);
            let next =
                if fault == Some(Fault::NewerWins) { apply_newer(entry, delta) } else { entry.apply(&delta) };
            self.entry = next.or(self.entry.take());
        }
        self.last = Some(record);
        true
    }

    /// Starts a read that misses the cache: places its stub.
    pub fn miss(&mut self) -> bool {
        if self.unread().is_some() {
            return false;
        }
        let ticket = self.misses as u64;
        self.misses += 1;
        self.entry = Some(Entry::miss(self.entry.as_ref(), ticket));
        self.loads.push(Load { ticket, unread: None });
        true
    }

    /// Continues a read: reads the database, then fills the entry and answers.
    pub fn load(&mut self, index: usize, counter: &Counter, fault: Option<Fault>) -> bool {
        let Some(load) = self.loads.get_mut(index) else { return false };
        let Some(unread) = &load.unread else {
            load.unread = Some(counter.unread().clone());
            return true;
        };
        let filled = if fault == Some(Fault::NewerWins) {
            Some(Entry::Filled(Arc::new(unread.clone())))
        } else {
            self.entry.as_ref().and_then(|entry| entry.fill(load.ticket, unread))
        };
        self.entry = filled.or(self.entry.take());
        self.loads.remove(index);
        true
    }

    /// Returns the number of reads in flight.
    pub fn loads(&self) -> usize {
        self.loads.len()
    }

    /// Crashes the process of the writer and of the reads. The writer reads the last record again.
    pub fn crash(&mut self, log: &mut Log) {
        self.last.take().into_iter().for_each(|record| log.cache_changes.push_front(record));
        self.loads.clear();
    }
}

/// Applies a change to any older entry: the planted fault.
fn apply_newer(entry: &Entry, delta: Delta) -> Option<Entry> {
    match entry {
        Entry::Filled(unread) if delta.version > unread.version => {
            entry.apply(&Delta { previous: unread.version, ..delta })
        }
        _ => entry.apply(&delta),
    }
}

fn delta(record: &Record) -> Delta {
    let (_, delta) = parse_delta(record.payload()).expect("every record of the topic is a change");
    delta
}
