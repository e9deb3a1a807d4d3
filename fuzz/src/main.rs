//! `make fuzz`: runs every target for a time or a number of inputs, and reports the resident memory at the
//! start, in the middle and at the end. A finding is printed with the seed that reproduces it, and the exit
//! status is 1.
//!
//! FUZZ_SECONDS (60) limits the time of each target, FUZZ_RUNS (unlimited) its inputs. FUZZ_TARGET
//! selects targets by the prefix of their name. FUZZ_SEED (1) is the first seed.

#![expect(clippy::print_stdout, reason = "the report is the program's output")]

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

/// Growth allowed from the middle of a run to its end. Caches are limited and should be full by the middle.
const GROWTH_MAX_KB: u64 = 64 * 1024;
/// Number of seeds between two reads of the clock.
const ROUND: u64 = 64;

fn main() -> anyhow::Result<ExitCode> {
    let seconds = setting("FUZZ_SECONDS")?.unwrap_or(60);
    let runs = setting("FUZZ_RUNS")?.unwrap_or(u64::MAX);
    let first = setting("FUZZ_SEED")?.unwrap_or(1);
    let only = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let mut found = 0;
    for mut target in targets().into_iter().filter(|target| target.name().starts_with(&only)) {
        let limits = Limits { first, runs, time: Duration::from_secs(seconds) };
        found += u32::from(!run(target.as_mut(), limits)?);
    }
    println!("{found} targets with findings");
    Ok(if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Clone, Copy)]
struct Limits {
    first: u64,
    runs: u64,
    time: Duration,
}

/// Runs one target. Returns false if the target panicked or its memory kept growing.
fn run(target: &mut dyn Target, limits: Limits) -> anyhow::Result<bool> {
    let started = Instant::now();
    let mut inputs = 0;
    let mut seed = limits.first;
    let warm_up = limits.runs / 100;
    let mut start_kb = None;
    let mut middle_kb = None;
    while inputs < limits.runs && started.elapsed() < limits.time {
        for _ in 0..ROUND {
            match catch_unwind(AssertUnwindSafe(|| target.mutated(&mut seeded(seed)))) {
                Ok(count) => inputs += count,
                Err(_) => {
                    let name = target.name();
                    println!(
                        "{name}: finding: FUZZ_TARGET=\"{name}\" FUZZ_SEED={seed} FUZZ_RUNS=1 reproduces it"
                    );
                    return Ok(false);
                }
            }
            seed += 1;
            if inputs >= limits.runs {
                break;
            }
        }
        let progress = (inputs as f64 / limits.runs as f64)
            .max(started.elapsed().as_secs_f64() / limits.time.as_secs_f64());
        if start_kb.is_none() && (inputs >= warm_up.max(1) || progress > 0.01) {
            start_kb = Some(resident_kb()?);
        }
        if middle_kb.is_none() && progress >= 0.5 {
            middle_kb = Some(resident_kb()?);
        }
    }
    let end_kb = resident_kb()?;
    let took = started.elapsed().as_secs_f64();
    let start_kb = start_kb.unwrap_or(end_kb);
    let middle_kb = middle_kb.unwrap_or(end_kb);
    println!(
        "{:<28} {inputs:>10} inputs, {:>8.0} a second; resident {start_kb} kB at the start, \
         {middle_kb} kB in the middle, {end_kb} kB at the end",
        target.name(),
        inputs as f64 / took,
    );
    let stable = end_kb <= middle_kb + GROWTH_MAX_KB;
    if !stable {
        println!("{}: memory grows", target.name());
    }
    Ok(stable)
}

/// Parses an environment variable.
fn setting<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    name: &str,
) -> anyhow::Result<Option<T>> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(text.parse().with_context(|| format!("invalid {name} `{text}`"))?)),
        Err(_) => Ok(None),
    }
}

/// Returns the resident memory of this process.
fn resident_kb() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
