//! Scenarios: each measures one property of a running system and returns rows of values.

mod badge;
mod fan_out;
mod growth;
mod ingest;
mod overload;
mod reads;
mod sends;
mod sockets;
mod start;
mod storm;
mod traces;

use std::path::PathBuf;

use crate::{
    meter::Cost,
    system::{Kind, System},
    workload::Workload,
};

/// Name of the table with the costs of an operation.
pub const COSTS: &str = "CPU time of one operation, by process";

/// Scenarios in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// From a send to the frame with its count, at fixed rates.
    Badge,
    /// Sends that are committed and counted a second.
    Sends,
    /// Queries a second.
    Reads,
    /// More queries than can be answered.
    Overload,
    /// One message to many sockets.
    FanOut,
    /// Start, memory at rest, size of the program.
    Start,
    /// Rate of a counter that starts with a full topic.
    Ingest,
    /// Memory of sockets.
    Sockets,
    /// All clients of a gateway connect again.
    Storm,
    /// Operations on many stored messages.
    Growth,
    /// Queries and sends with and without traces.
    Traces,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Badge,
        Self::Sends,
        Self::Reads,
        Self::Overload,
        Self::FanOut,
        Self::Start,
        Self::Ingest,
        Self::Sockets,
        Self::Storm,
        Self::Growth,
        Self::Traces,
    ];

    /// Returns the name in file names and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Badge => "badge",
            Self::Sends => "sends",
            Self::Reads => "reads",
            Self::Overload => "overload",
            Self::FanOut => "fan-out",
            Self::Start => "start",
            Self::Ingest => "ingest",
            Self::Sockets => "sockets",
            Self::Storm => "storm",
            Self::Growth => "growth",
            Self::Traces => "traces",
        }
    }

    /// Returns the heading in the report.
    pub fn title(self) -> &'static str {
        match self {
            Self::Badge => "From a send to the badge",
            Self::Sends => "Sustained sends",
            Self::Reads => "Reads",
            Self::Overload => "Overload",
            Self::FanOut => "Fan-out",
            Self::Start => "Start, memory and size",
            Self::Ingest => "Counting a full topic",
            Self::Sockets => "Memory of sockets",
            Self::Storm => "Reconnect storm",
            Self::Growth => "Growth",
            Self::Traces => "Cost of traces",
        }
    }

    /// Returns the paragraph under the heading.
    pub fn text(self) -> &'static str {
        match self {
            Self::Badge => badge::TEXT,
            Self::Sends => sends::TEXT,
            Self::Reads => reads::TEXT,
            Self::Overload => overload::TEXT,
            Self::FanOut => fan_out::TEXT,
            Self::Start => start::TEXT,
            Self::Ingest => ingest::TEXT,
            Self::Sockets => sockets::TEXT,
            Self::Storm => storm::TEXT,
            Self::Growth => growth::TEXT,
            Self::Traces => traces::TEXT,
        }
    }

    /// Returns true if the scenario exists on a kind of system.
    pub fn runs_on(self, kind: Kind) -> bool {
        match self {
            Self::Ingest => kind == Kind::Engines,
            Self::Sockets => kind == Kind::Sqlite,
            _ => true,
        }
    }

    /// Returns the number of rounds, where so many are wanted. One round of growth takes minutes, and shows
    /// the differences between its cases.
    pub fn rounds(self, wanted: usize) -> usize {
        if self == Self::Growth { wanted.min(1) } else { wanted }
    }

    /// Runs the scenario once against a program. The comparison of all counts is part of it.
    pub async fn run(self, bench: &Bench) -> anyhow::Result<Outcome> {
        match self {
            Self::Badge => badge::run(bench).await,
            Self::Sends => sends::run(bench).await,
            Self::Reads => reads::run(bench).await,
            Self::Overload => overload::run(bench).await,
            Self::FanOut => fan_out::run(bench).await,
            Self::Start => start::run(bench).await,
            Self::Ingest => ingest::run(bench).await,
            Self::Sockets => sockets::run(bench).await,
            Self::Storm => storm::run(bench).await,
            Self::Growth => growth::run(bench).await,
            Self::Traces => traces::run(bench).await,
        }
    }
}

/// Program under test and the sizes of the run.
pub struct Bench {
    /// Kind of system.
    pub kind: Kind,
    /// Program.
    pub program: PathBuf,
    /// Folder for data and logs.
    pub folder: PathBuf,
    /// Seconds of each measured interval.
    pub seconds: u64,
    /// The only case to measure; all cases if it is absent.
    pub only: Option<String>,
    /// Other servers, and raw inserts, are measured too.
    pub with_peers: bool,
}

impl Bench {
    /// Starts the program with these settings besides the usual ones.
    pub async fn start(&self, extra: &[(&'static str, &str)]) -> anyhow::Result<System> {
        System::start(self.kind, &self.program, &self.folder, extra).await
    }

    /// Announces a case; returns true if it is not among those to measure.
    pub fn skips(&self, case: &str) -> bool {
        let skips = self.only.as_ref().is_some_and(|only| only != case);
        if !skips {
            println!("  measuring {case}");
        }
        skips
    }

    /// Compares all counts and stops the program.
    pub async fn finish(
        &self,
        system: &mut System,
        workload: &Workload,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        outcome.compared += workload.compare().await?;
        system.stop_all().await
    }
}

/// Values of a table's row.
pub struct Measured {
    /// Name of the table.
    pub table: &'static str,
    /// Case.
    pub case: String,
    /// Name of what was measured instead of the program under test.
    pub other: Option<&'static str>,
    /// Values by name.
    pub values: Vec<(String, f64)>,
}

/// Rows of one run, and the number of users whose counts were compared.
#[derive(Default)]
pub struct Outcome {
    /// Rows in the order of the report.
    pub rows: Vec<Measured>,
    /// Users whose counts were compared without a difference.
    pub compared: usize,
}

impl Outcome {
    /// Adds a row.
    pub fn add(&mut self, table: &'static str, case: &str, values: Vec<(String, f64)>) {
        self.add_of(table, case, None, values);
    }

    /// Adds a row of something else than the program under test.
    pub fn add_of(
        &mut self,
        table: &'static str,
        case: &str,
        other: Option<&'static str>,
        values: Vec<(String, f64)>,
    ) {
        self.rows.push(Measured { table, case: case.to_owned(), other, values });
    }

    /// Adds the row of costs.
    pub fn add_cost(&mut self, case: &str, cost: &Cost) {
        self.add(COSTS, case, cost.values());
    }
}
