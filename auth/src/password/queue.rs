//! Queue of password work: short, and fair between those who wait in it. No clock, no threads.
//!
//! Work for clients that are known and for all others waits in two lanes, which take turns: a flood from
//! unknown addresses delays a known client by one hash. In a lane origins take turns, and none has more
//! than [`ORIGIN_MAX`] places. A full lane gives a newcomer the newest place of the origin that has most.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
};

use proto::UserId;
use tokio::time::Instant;

/// Places of one origin in a lane. More than the sign-ins that the rate limit admits from an address in
/// the time that work may wait, fewer than a lane has.
pub(super) const ORIGIN_MAX: usize = 8;

/// Whom work is done for, as far as the queue is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    /// An authenticated user.
    User(UserId),
    /// An address, or a /64 network.
    Network(IpAddr),
    /// A caller that names no address. All of them share this origin.
    Unknown,
}

/// Client that password work is done for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requester {
    pub origin: Origin,
    /// Authenticated, or at an address that has signed in to the same login before.
    pub is_known: bool,
    /// Time after which the client no longer waits for the answer.
    pub deadline: Option<Instant>,
}

impl Requester {
    /// Creates the requester of tests that limit nothing.
    #[cfg(test)]
    pub(crate) fn any() -> Self {
        Self { origin: Origin::Unknown, is_known: false, deadline: None }
    }
}

/// Reason why work has no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The lane is full.
    Lane,
    /// The origin has all its places.
    Origin,
}

/// The queue. Its jobs are dropped with it.
#[derive(Debug)]
pub(super) struct FairQueue<J> {
    known: Lane<J>,
    other: Lane<J>,
    /// The lane whose turn it is.
    known_is_next: bool,
    lane_max: usize,
}

impl<J> FairQueue<J> {
    /// Creates a queue with two lanes of `lane_max` places.
    pub(super) fn new(lane_max: usize) -> Self {
        Self { known: Lane::new(), other: Lane::new(), known_is_next: true, lane_max }
    }

    /// Appends a job. Jobs that `is_wanted` denies give up their places first if places are short. In a
    /// full lane it may take the place of another origin's newest job, which is dropped.
    ///
    /// # Errors
    /// [`Full`]; the job is dropped.
    pub(super) fn push(
        &mut self,
        requester: &Requester,
        job: J,
        is_wanted: impl Fn(&J) -> bool,
    ) -> Result<(), Full> {
        let lane = if requester.is_known { &mut self.known } else { &mut self.other };
        if lane.len >= self.lane_max || lane.places(requester.origin) >= ORIGIN_MAX {
            lane.retain(is_wanted);
        }
        let places = lane.places(requester.origin);
        if places >= ORIGIN_MAX {
            return Err(Full::Origin);
        }
        if lane.len >= self.lane_max && !lane.drop_newest_above(places + 1) {
            return Err(Full::Lane);
        }
        lane.push(requester.origin, job);
        Ok(())
    }

    /// Removes the next job.
    pub(super) fn pop(&mut self) -> Option<J> {
        let (first, second) = if self.known_is_next {
            (&mut self.known, &mut self.other)
        } else {
            (&mut self.other, &mut self.known)
        };
        self.known_is_next = !self.known_is_next;
        first.pop().or_else(|| second.pop())
    }
}

/// Jobs of one lane by origin.
#[derive(Debug)]
struct Lane<J> {
    /// Each origin with a job, in the order of their turns.
    turns: VecDeque<Origin>,
    jobs: HashMap<Origin, VecDeque<J>>,
    len: usize,
}

impl<J> Lane<J> {
    fn new() -> Self {
        Self { turns: VecDeque::new(), jobs: HashMap::new(), len: 0 }
    }

    fn places(&self, origin: Origin) -> usize {
        self.jobs.get(&origin).map_or(0, VecDeque::len)
    }

    fn push(&mut self, origin: Origin, job: J) {
        let jobs = self.jobs.entry(origin).or_default();
        if jobs.is_empty() {
            self.turns.push_back(origin);
        }
        jobs.push_back(job);
        self.len += 1;
    }

    fn pop(&mut self) -> Option<J> {
        let origin = self.turns.pop_front()?;
        let jobs = self.jobs.get_mut(&origin)?;
        let job = jobs.pop_front();
        if jobs.is_empty() {
            self.jobs.remove(&origin);
        } else {
            self.turns.push_back(origin);
        }
        self.len -= 1;
        job
    }

    /// Drops the newest job of the origin with the most places if these are more than `places`. Returns
    /// true if it did.
    fn drop_newest_above(&mut self, places: usize) -> bool {
        let most = self.jobs.values_mut().max_by_key(|jobs| jobs.len());
        let Some(jobs) = most.filter(|jobs| jobs.len() > places) else { return false };
        jobs.pop_back();
        self.len -= 1;
        true
    }

    fn retain(&mut self, is_wanted: impl Fn(&J) -> bool) {
        self.jobs.retain(|_, jobs| {
            jobs.retain(&is_wanted);
            !jobs.is_empty()
        });
        let jobs = &self.jobs;
        self.turns.retain(|origin| jobs.contains_key(origin));
        self.len = self.jobs.values().map(VecDeque::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: u8) -> Requester {
        Requester { origin: Origin::Network(IpAddr::from([192, 0, 2, address])), ..Requester::any() }
    }

    fn known(address: u8) -> Requester {
        Requester { is_known: true, ..from(address) }
    }

    fn push(queue: &mut FairQueue<u32>, requester: &Requester, job: u32) -> Result<(), Full> {
        queue.push(requester, job, |_| true)
    }

    fn drain(queue: &mut FairQueue<u32>) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn origins_take_turns_and_each_keeps_its_order() {
        let mut queue = FairQueue::new(16);
        for (address, job) in [(1, 11), (1, 12), (1, 13), (2, 21), (3, 31), (2, 22)] {
            push(&mut queue, &from(address), job).unwrap();
        }
        assert_eq!(drain(&mut queue), [11, 21, 31, 12, 22, 13]);
        assert_eq!((queue.other.len, queue.other.jobs.len()), (0, 0), "nothing is kept");
    }

    #[test]
    fn one_origin_has_eight_places_and_does_not_fill_a_lane() {
        let mut queue = FairQueue::new(32);
        for job in 0..8 {
            push(&mut queue, &from(1), job).unwrap();
        }
        assert_eq!(push(&mut queue, &from(1), 8), Err(Full::Origin));
        push(&mut queue, &from(2), 20).unwrap();
        queue.pop();
        push(&mut queue, &from(1), 9).unwrap();
    }

    #[test]
    fn in_a_full_lane_a_newcomer_takes_the_newest_place_of_the_origin_with_the_most() {
        let mut queue = FairQueue::new(4);
        for (address, job) in [(1, 11), (1, 12), (1, 13), (2, 21)] {
            push(&mut queue, &from(address), job).unwrap();
        }
        assert_eq!(push(&mut queue, &from(1), 14), Err(Full::Lane), "not from itself");
        push(&mut queue, &from(3), 31).unwrap();
        assert_eq!(push(&mut queue, &from(2), 22), Err(Full::Lane), "two against two is no gain");
        push(&mut queue, &from(4), 41).unwrap();
        assert_eq!(push(&mut queue, &from(5), 51), Err(Full::Lane), "every origin has one place");
        assert_eq!(drain(&mut queue), [11, 21, 31, 41]);
    }

    #[test]
    fn a_flood_of_unknown_clients_leaves_known_ones_their_lane_and_every_second_turn() {
        let mut queue = FairQueue::new(4);
        for address in 0..4 {
            push(&mut queue, &from(address), u32::from(address)).unwrap();
        }
        assert_eq!(push(&mut queue, &from(9), 9), Err(Full::Lane));
        for address in 0..2 {
            push(&mut queue, &known(address), 100 + u32::from(address)).unwrap();
        }
        assert_eq!(drain(&mut queue), [100, 0, 101, 1, 2, 3]);
    }

    #[test]
    fn work_whose_caller_has_left_gives_up_its_place() {
        let mut queue = FairQueue::new(4);
        for (address, job) in [(1, 1), (1, 2), (2, 3), (3, 4)] {
            push(&mut queue, &from(address), job).unwrap();
        }
        queue.push(&from(4), 5, |job| *job > 2).unwrap();
        assert_eq!(drain(&mut queue), [3, 4, 5]);
    }
}
