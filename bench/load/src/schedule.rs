//! Load in its two forms. The open loop starts operations at times that are fixed in advance, and their
//! latency counts from those times: an operation that starts late because others are slow is slow itself
//! (no coordinated omission). The closed loop keeps a number of operations in flight.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinSet};

/// Start times at a constant rate.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    rate: u32,
    duration: Duration,
}

impl Schedule {
    /// Creates a schedule of `rate` operations a second.
    pub const fn new(rate: u32, duration: Duration) -> Self {
        Self { rate, duration }
    }

    /// Creates a schedule of one operation for each item.
    pub fn once_each<T>(items: &[T], rate: u32) -> Self {
        Self { rate, duration: Duration::from_secs_f64(items.len() as f64 / f64::from(rate)) }
    }

    /// Returns the number of operations.
    pub fn len(&self) -> u64 {
        (f64::from(self.rate) * self.duration.as_secs_f64()).round() as u64
    }

    /// Returns the start of an operation, counted from the start of the schedule.
    pub fn offset(&self, index: u64) -> Duration {
        Duration::from_secs_f64(index as f64 / f64::from(self.rate))
    }

    /// Starts every operation at its time, each in a task of its own, and returns their results. The
    /// operation receives its index and its intended start.
    pub async fn run<F, O>(&self, operation: impl Fn(u64, Instant) -> F) -> anyhow::Result<Vec<O>>
    where
        F: Future<Output = O> + Send + 'static,
        O: Send + 'static,
    {
        let mut tasks = JoinSet::new();
        let mut due = self.clock();
        while let Some((index, intended)) = due.recv().await {
            tasks.spawn(operation(index, intended));
        }
        let mut results = Vec::new();
        while let Some(result) = tasks.join_next().await {
            results.push(result?);
        }
        Ok(results)
    }

    /// Announces every operation at its time. A thread does so because the timers of tokio are a
    /// millisecond late on average, which is much of what is measured. It ends with the receiver.
    fn clock(self) -> mpsc::UnboundedReceiver<(u64, Instant)> {
        let (due, receiver) = mpsc::unbounded_channel();
        let start = Instant::now() + Duration::from_millis(10);
        std::thread::spawn(move || {
            for index in 0..self.len() {
                let intended = start + self.offset(index);
                std::thread::sleep(intended.saturating_duration_since(Instant::now()));
                if due.send((index, intended)).is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

/// Keeps `workers` operations in flight for a time. Each worker calls the operation with its own state,
/// one call after the other. Returns the states.
pub async fn closed_loop<S, F>(
    workers: Vec<S>,
    duration: Duration,
    operation: impl Fn(S) -> F + Send + Sync + 'static,
) -> anyhow::Result<Vec<S>>
where
    S: Send + 'static,
    F: Future<Output = anyhow::Result<S>> + Send,
{
    let end = Instant::now() + duration;
    let operation = Arc::new(operation);
    let mut tasks = JoinSet::new();
    for mut state in workers {
        let operation = Arc::clone(&operation);
        tasks.spawn(async move {
            while Instant::now() < end {
                state = operation(state).await?;
            }
            anyhow::Ok(state)
        });
    }
    let mut states = Vec::new();
    while let Some(state) = tasks.join_next().await {
        states.push(state??);
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_evenly_spaced_and_fill_the_duration() {
        let schedule = Schedule::new(300, Duration::from_secs(2));
        assert_eq!(schedule.len(), 600);
        assert_eq!(Schedule::once_each(&[(); 7], 300).len(), 7);
        assert_eq!(schedule.offset(0), Duration::ZERO);
        assert_eq!(schedule.offset(150), Duration::from_millis(500));
        assert!(schedule.offset(599) < Duration::from_secs(2));
    }

    #[tokio::test]
    async fn a_slow_operation_delays_no_other_start() {
        let schedule = Schedule::new(1_000, Duration::from_millis(50));
        let slow = |index, intended| async move {
            tokio::time::sleep(Duration::from_millis(if index == 0 { 100 } else { 0 })).await;
            (index, intended)
        };
        let mut starts = schedule.run(slow).await.unwrap();
        assert_eq!(starts.last().unwrap().0, 0, "the others did not wait for it");
        starts.sort_unstable();
        let first = starts[0].1;
        assert!(starts.iter().all(|(index, intended)| *intended == first + schedule.offset(*index)));
    }

    #[tokio::test]
    async fn every_worker_of_a_closed_loop_keeps_its_state() {
        let count = |count: u64| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(count + 1)
        };
        let counts = closed_loop(vec![0; 3], Duration::from_millis(20), count).await.unwrap();
        assert!(counts.len() == 3 && counts.iter().all(|count| *count > 0), "{counts:?}");
    }
}
