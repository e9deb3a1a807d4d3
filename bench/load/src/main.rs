//! Load generator of Tidings: `make bench`. Starts the program under test in one of two kinds of system,
//! runs scenarios against it in interleaved rounds, and writes docs/benchmarks.md.
//!
//! Every answer is checked, and every run ends with a comparison of all counts. A difference is an error; a
//! time never is.

#![expect(clippy::print_stdout, reason = "progress is the program's output")]

mod collector;
mod connection;
mod engines;
mod graphql;
mod latency;
mod machine;
mod meter;
mod oracle;
mod peers;
mod proc;
mod readers;
mod report;
mod result;
mod scenario;
mod schedule;
mod socket;
mod store;
mod system;
mod workload;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Parser;
use machine::Machine;
use result::{Results, Row};
use scenario::{Bench, Scenario};
use system::Kind;
use tokio::signal::{
    ctrl_c,
    unix::{SignalKind, signal},
};

/// File descriptors: each socket and connection takes one.
const OPEN_FILES: u64 = 65_536;

/// Measures Tidings and writes docs/benchmarks.md.
#[derive(Debug, Parser)]
struct Arguments {
    /// Scenarios; all of them by default.
    scenarios: Vec<Scenario>,
    /// Kinds of system; both by default.
    #[arg(long = "on", value_delimiter = ',', default_value = "sqlite,engines")]
    kinds: Vec<Kind>,
    /// Program under test.
    #[arg(long, env = "TIDINGS_PROGRAM", default_value = "target/release/tidings")]
    program: PathBuf,
    /// Older program to compare with.
    #[arg(long, env = "BASE_PROGRAM")]
    base: Option<PathBuf>,
    /// Measure other GraphQL servers on the same services too, where they are installed.
    #[arg(long, env = "PEERS", default_value_t = true, action = clap::ArgAction::Set)]
    peers: bool,
    /// Rounds; the programs take turns in each.
    #[arg(long, env = "ROUNDS", default_value_t = 3)]
    rounds: usize,
    /// The only case to measure, as it is named in the report; nothing is written.
    #[arg(long, env = "CASE")]
    only: Option<String>,
    /// Length of a measured interval in seconds.
    #[arg(long, env = "SECONDS_EACH", default_value_t = 5)]
    seconds: u64,
    /// Folder for results, data and logs.
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
    /// Report to write.
    #[arg(long, env = "REPORT", default_value = "docs/benchmarks.md")]
    report: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut stop = signal(SignalKind::terminate())?;
    let arguments = Arguments::parse();
    rlimit::increase_nofile_limit(OPEN_FILES)?;
    // The programs under test end with the future that has started them.
    tokio::select! {
        done = run(arguments) => done,
        _ = stop.recv() => bail!("stopped by SIGTERM"),
        interrupted = ctrl_c() => interrupted.map_err(Into::into).and_then(|()| bail!("interrupted")),
    }
}

/// Measures all chosen scenarios, then renders the report from these results and those of earlier runs.
async fn run(arguments: Arguments) -> anyhow::Result<()> {
    std::fs::create_dir_all(&arguments.folder)?;
    // The programs run in other folders.
    let folder = arguments.folder.canonicalize()?;
    let chosen = if arguments.scenarios.is_empty() { &Scenario::ALL[..] } else { &arguments.scenarios };
    for scenario in chosen {
        for kind in arguments.kinds.iter().filter(|kind| scenario.runs_on(**kind)) {
            let results = measure(*scenario, *kind, &arguments, &folder).await?;
            if arguments.only.is_none() {
                results.write(&folder.join("results"))?;
            }
        }
    }
    if arguments.only.is_some() {
        return Ok(());
    }
    let mut all = Vec::new();
    for scenario in Scenario::ALL {
        for kind in [Kind::Sqlite, Kind::Engines] {
            if let Some(results) = Results::read(&folder.join("results"), scenario.name(), kind.name())? {
                all.push((scenario, kind, results));
            }
        }
    }
    std::fs::write(&arguments.report, report::render(&all))
        .with_context(|| arguments.report.display().to_string())?;
    println!("wrote {}", arguments.report.display());
    Ok(())
}

/// Runs a scenario in interleaved rounds: before, now, before, now.
async fn measure(
    scenario: Scenario,
    kind: Kind,
    arguments: &Arguments,
    folder: &std::path::Path,
) -> anyhow::Result<Results> {
    let machine = Machine::read();
    let mut programs = vec![(report::NOW, &arguments.program)];
    if let Some(base) = &arguments.base {
        programs.insert(0, (report::BEFORE, base));
    }
    let mut rows = Vec::new();
    let mut compared = 0;
    let rounds = scenario.rounds(arguments.rounds);
    for round in 0..rounds {
        for (name, program) in &programs {
            println!("{} on {}, round {} of {rounds}, {name}", scenario.name(), kind.name(), round + 1);
            let program = program.canonicalize().with_context(|| program.display().to_string())?;
            let bench = Bench {
                kind,
                program,
                folder: folder.join("run"),
                seconds: arguments.seconds,
                only: arguments.only.clone(),
                with_peers: arguments.peers && *name == report::NOW,
            };
            let outcome =
                scenario.run(&bench).await.with_context(|| format!("{}, {name}", scenario.name()))?;
            compared += outcome.compared;
            for measured in outcome.rows {
                let values: Vec<String> =
                    measured.values.iter().map(|(name, value)| format!("{name} {value:.2}")).collect();
                println!("  {} {}: {}", measured.case, measured.other.unwrap_or_default(), values.join("; "));
                rows.push(Row {
                    table: measured.table.to_owned(),
                    case: measured.case,
                    program: measured.other.unwrap_or(name).to_owned(),
                    round,
                    values: measured.values,
                });
            }
        }
    }
    let notes = vec![format!("Counts of {compared} users compared, 0 differences.")];
    let scenario = scenario.name().to_owned();
    let kind = kind.name().to_owned();
    Ok(Results { scenario, kind, machine, load_after: machine::load(), notes, rows })
}
