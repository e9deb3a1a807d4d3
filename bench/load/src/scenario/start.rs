//! Time from the start of the program until it says that it is ready, its memory at rest, and its size.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{Bench, Outcome};

/// Description in the report.
pub const TEXT: &str = "*Start* is the time until every process answers 200 at `/readyz`, on existing \
databases; all roles start at once. *Memory* is the resident memory after 3 s without requests, of all \
processes of the program together. *File* is the size of the program.";

const REST: Duration = Duration::from_secs(3);
const STARTS: usize = 5;

/// Runs the scenario once.
pub async fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let mut system = bench.start(&[]).await?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        system.stop_all().await?;
        let started = Instant::now();
        system.start_all()?;
        system.wait_until_ready().await?;
        starts.push(started.elapsed().as_secs_f64() * 1e3);
    }
    sleep(REST).await;
    let resident = system.resident_kb()?;
    let memory_kb: u64 = resident.iter().map(|(_, kb)| kb).sum();
    let mut outcome = Outcome::default();
    let mut values = vec![
        ("start, ms".to_owned(), crate::result::median(starts).unwrap_or_default()),
        ("memory, MiB".to_owned(), memory_kb as f64 / 1024.0),
        ("file, MiB".to_owned(), std::fs::metadata(&bench.program)?.len() as f64 / 1024.0 / 1024.0),
    ];
    if resident.len() > 1 {
        values.extend(resident.into_iter().map(|(name, kb)| (format!("{name}, MiB"), kb as f64 / 1024.0)));
    }
    outcome.add("Start and size", "at rest", values);
    system.stop_all().await?;
    Ok(outcome)
}
