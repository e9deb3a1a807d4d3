//! `make fuzz`: every target for a while, or for a number of inputs, with what the process holds at the start, in the
//! middle and at the end. What is found is printed with the number that makes it again; the status is 1 then.
//!
//! FUZZ_SECONDS (60) bounds each target, FUZZ_RUNS (none) its inputs; FUZZ_TARGET takes one by the beginning of its name;
//! FUZZ_SEED is the first number.

#![expect(clippy::print_stdout, reason = "figures are what this program is for")]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::Context;
use fuzz::{Target, seeded, targets};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How much a target may grow between its middle and its end, in kB: caches fill up and are bounded.
const GROWTH_MAX_KB: u64 = 64 * 1024;
/// Seeds between two looks at the clock.
const ROUND: u64 = 64;

fn main() -> anyhow::Result<ExitCode> {
    let seconds = setting("FUZZ_SECONDS")?.unwrap_or(60);
    let runs = setting("FUZZ_RUNS")?.unwrap_or(u64::MAX);
    let first = setting("FUZZ_SEED")?.unwrap_or(1);
    let only = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let mut found = 0;
    for mut target in targets().into_iter().filter(|target| target.name().starts_with(&only)) {
        let bounds = Bounds { first, runs, time: Duration::from_secs(seconds) };
        found += u32::from(!drive(target.as_mut(), bounds)?);
    }
    println!("{found} targets with findings");
    Ok(if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Clone, Copy)]
struct Bounds {
    first: u64,
    runs: u64,
    time: Duration,
}

/// Runs one target; `false` where it found something.
fn drive(target: &mut dyn Target, bounds: Bounds) -> anyhow::Result<bool> {
    let (begun, mut inputs, mut seed) = (Instant::now(), 0, bounds.first);
    let warm_up = bounds.runs / 100;
    let (mut start_kb, mut middle_kb) = (None, None);
    while inputs < bounds.runs && begun.elapsed() < bounds.time {
        for _ in 0..ROUND {
            match catch_unwind(AssertUnwindSafe(|| target.bent(&mut seeded(seed)))) {
                Ok(count) => inputs += count,
                Err(_) => {
                    let name = target.name();
                    println!("{name}: found with FUZZ_TARGET=\"{name}\" FUZZ_SEED={seed} FUZZ_RUNS=1");
                    return Ok(false);
                }
            }
            seed += 1;
            if inputs >= bounds.runs {
                break;
            }
        }
        let part = (inputs as f64 / bounds.runs as f64)
            .max(begun.elapsed().as_secs_f64() / bounds.time.as_secs_f64());
        if start_kb.is_none() && (inputs >= warm_up.max(1) || part > 0.01) {
            start_kb = Some(resident_kb()?);
        }
        if middle_kb.is_none() && part >= 0.5 {
            middle_kb = Some(resident_kb()?);
        }
    }
    let (end_kb, took) = (resident_kb()?, begun.elapsed().as_secs_f64());
    let (start_kb, middle_kb) = (start_kb.unwrap_or(end_kb), middle_kb.unwrap_or(end_kb));
    println!(
        "{:<28} {inputs:>10} inputs, {:>8.0} a second; resident {start_kb} kB at the start, {middle_kb} kB in the middle, {end_kb} kB at the end",
        target.name(),
        inputs as f64 / took,
    );
    let flat = end_kb <= middle_kb + GROWTH_MAX_KB;
    if !flat {
        println!("{}: it grows", target.name());
    }
    Ok(flat)
}

fn setting<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    name: &str,
) -> anyhow::Result<Option<T>> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(text.parse().with_context(|| format!("{name} is `{text}`"))?)),
        Err(_) => Ok(None),
    }
}

/// What this process holds, in kB.
fn resident_kb() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
