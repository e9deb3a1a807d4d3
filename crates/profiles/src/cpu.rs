//! CPU profile: a timer of the process interrupts the threads that use the CPU, 99 times for each second of
//! CPU time, and the stack that is interrupted is a sample.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use pprof::{ProfilerGuard, ProfilerGuardBuilder};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    profile::{Profile, Stack, ValueType},
    symbols::Symbols,
};

/// Samples for each second of CPU time. Not 100: work that happens every 10 ms would be met always or never.
const FREQUENCY: i32 = 99;
/// CPU time that a sample stands for, in nanoseconds.
const PERIOD: i64 = 1_000_000_000 / FREQUENCY as i64;
/// Function of the profiler that takes the sample.
const SIGNAL_HANDLER: &str = "perf_signal_handler";

/// Records for `duration`, or until shutdown. Recording stops when the future is dropped.
///
/// # Errors
/// [`Error::Busy`] if this process is recorded already, [`Error::Failed`] if the profiler does not work.
pub(crate) async fn record(duration: Duration, shutdown: &CancellationToken) -> Result<Profile, Error> {
    let started = SystemTime::now();
    // The first start reads the symbols of the program.
    let guard = spawn_blocking(start).await.map_err(Error::failed)??;
    let begin = Instant::now();
    tokio::select! {
        () = sleep(duration) => {}
        () = shutdown.cancelled() => {}
    }
    let duration = begin.elapsed();
    let stacks = spawn_blocking(move || stop(guard)).await.map_err(Error::failed)??;
    Ok(Profile {
        types: vec![
            ValueType { name: "samples", unit: "count" },
            ValueType { name: "cpu", unit: "nanoseconds" },
        ],
        period: PERIOD,
        started,
        duration,
        stacks,
    })
}

fn start() -> Result<ProfilerGuard<'static>, Error> {
    // The unwinding information of the kernel's page is wrong in some kernels.
    let builder = ProfilerGuardBuilder::default().frequency(FREQUENCY).blocklist(&["vdso"]);
    builder.build().map_err(|error| match error {
        pprof::Error::Running => Error::Busy,
        error => Error::failed(error),
    })
}

/// Stops recording and returns the stacks.
fn stop(guard: ProfilerGuard<'_>) -> Result<Vec<Stack>, Error> {
    let report = guard.report().build_unresolved().map_err(Error::failed)?;
    let mut counts = HashMap::<(String, Vec<usize>), i64>::new();
    for (sample, count) in report.data {
        let thread = String::from_utf8_lossy(&sample.thread_name[..sample.thread_name_length]).into_owned();
        // The outermost frame of a thread has no address.
        let addresses = sample.frames.iter().map(|frame| frame.ip().addr()).filter(|it| *it != 0).collect();
        *counts.entry((thread, addresses)).or_default() += i64::try_from(count).unwrap_or_default();
    }
    // Only now, as the profiler allocates its tables again, and the samples of the report are large.
    drop(guard);
    let mut symbols = Symbols::default();
    let stacks = counts.into_iter().map(|((thread, mut addresses), count)| {
        remove_handler(&mut addresses, &mut symbols);
        // The innermost function was interrupted; the others return to the instruction after their call.
        for address in addresses.iter_mut().skip(1) {
            *address = address.saturating_sub(1);
        }
        Stack { addresses, thread: Some(thread), values: vec![count, count.saturating_mul(PERIOD)] }
    });
    Ok(stacks.collect())
}

/// Removes the frames of the sampling: the signal handler, what it called, and the kernel's trampoline that
/// called it.
fn remove_handler(addresses: &mut Vec<usize>, symbols: &mut Symbols) {
    let is_handler =
        |address: &usize| symbols.at(*address).iter().any(|it| it.name.ends_with(SIGNAL_HANDLER));
    if let Some(handler) = addresses.iter().position(is_handler) {
        addresses.drain(..addresses.len().min(handler + 2));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        hint::black_box,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        thread,
    };

    use super::*;

    #[inline(never)]
    fn busy(ended: &AtomicBool) -> u64 {
        let mut sum = 0_u64;
        while !ended.load(Ordering::Relaxed) {
            sum = black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        sum
    }

    #[tokio::test]
    async fn a_busy_function_is_on_the_stacks_of_its_thread_and_a_recording_ends_at_shutdown() {
        let ended = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ended);
        let worker = thread::Builder::new().name("busy-thread".to_owned());
        let worker = worker.spawn(move || busy(&until)).expect("a thread");
        let shutdown = CancellationToken::new();
        let recorded = record(Duration::from_secs(1), &shutdown).await.expect("recorded");
        ended.store(true, Ordering::Relaxed);
        worker.join().expect("no panic");
        let mut symbols = Symbols::default();
        let mut is_on = |stack: &Stack, name: &str| {
            let mut addresses = stack.addresses.iter();
            addresses.any(|&address| symbols.at(address).iter().any(|function| function.name.ends_with(name)))
        };
        let mut samples = 0;
        for stack in &recorded.stacks {
            assert!(!is_on(stack, SIGNAL_HANDLER), "the sampling is not part of a stack: {stack:?}");
            if stack.thread.as_deref() == Some("busy-thread") && is_on(stack, "::busy") {
                samples += stack.values[0];
            }
        }
        assert!(samples >= 10, "{samples} of 99 samples: {recorded:?}");

        shutdown.cancel();
        let ended = record(Duration::from_secs(60), &shutdown).await.expect("recorded");
        assert!(ended.duration < Duration::from_secs(30), "{:?}", ended.duration);
    }
}
