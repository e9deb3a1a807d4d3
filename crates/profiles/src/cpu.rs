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
/// Function that takes the sample. It, its caller and all below are not part of a stack.
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
    drop(guard);
    let mut symbols = Symbols::default();
    let mut stacks = HashMap::new();
    for (sample, count) in report.data {
        let thread = String::from_utf8_lossy(&sample.thread_name[..sample.thread_name_length]).into_owned();
        let mut addresses: Vec<usize> = sample.frames.iter().map(|frame| frame.ip().addr()).collect();
        let is_handler = |address: &usize| symbols.at(*address).iter().any(|it| it.name == SIGNAL_HANDLER);
        if let Some(handler) = addresses.iter().position(is_handler) {
            // The kernel's trampoline called it.
            addresses.drain(..addresses.len().min(handler + 2));
        }
        // The innermost function was interrupted; the others return to the instruction after their call.
        for address in addresses.iter_mut().skip(1) {
            *address = address.saturating_sub(1);
        }
        *stacks.entry((thread, addresses)).or_default() += i64::try_from(count).unwrap_or_default();
    }
    let stack = |((thread, addresses), count): ((String, Vec<usize>), i64)| {
        let thread = Some(thread);
        Stack { addresses, thread, values: vec![count, count.saturating_mul(PERIOD)] }
    };
    Ok(stacks.into_iter().map(stack).collect())
}

#[cfg(test)]
mod tests {
    use std::{hint::black_box, thread};

    use super::*;

    #[inline(never)]
    fn busy(until: std::time::Instant) -> u64 {
        let mut sum = 0_u64;
        while std::time::Instant::now() < until {
            for number in 0..1_000 {
                sum = black_box(sum.wrapping_mul(31).wrapping_add(number));
            }
        }
        sum
    }

    #[tokio::test]
    async fn a_busy_function_is_on_the_stacks_of_its_thread_and_recording_ends_at_shutdown() {
        let shutdown = CancellationToken::new();
        let worker = thread::Builder::new().name("busy-thread".to_owned());
        let until = std::time::Instant::now() + Duration::from_secs(1);
        let worker = worker.spawn(move || busy(until)).expect("a thread");
        let stopping = shutdown.clone();
        let joined = spawn_blocking(move || {
            worker.join().expect("no panic");
            stopping.cancel();
        });
        let recorded = record(Duration::from_secs(60), &shutdown).await.expect("recorded");
        joined.await.expect("no panic");
        assert!(recorded.duration < Duration::from_secs(30), "{:?}", recorded.duration);
        let mut symbols = Symbols::default();
        let mut is_busy = |stack: &&Stack| {
            let mut on_stack = stack.addresses.iter().any(|&address| {
                symbols.at(address).iter().any(|function| function.name == "profiles::cpu::tests::busy")
            });
            on_stack &= stack.thread.as_deref() == Some("busy-thread");
            on_stack
        };
        let samples: i64 = recorded.stacks.iter().filter(|it| is_busy(it)).map(|stack| stack.values[0]).sum();
        assert!(samples >= 10, "{samples} of 99 samples: {recorded:?}");
        let mut named = recorded.stacks.iter().flat_map(|stack| &stack.addresses);
        let handler = named.any(|&address| symbols.at(address).iter().any(|it| it.name == SIGNAL_HANDLER));
        assert!(!handler, "the signal handler is not part of a stack");
    }
}
