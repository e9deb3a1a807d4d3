//! The table that a run prints at its end.

use std::{collections::BTreeMap, time::Duration};

use super::{
    findings::Rule,
    load::{Load, Sends},
    log_out::LogOuts,
    system::System,
    watcher::Watcher,
};

/// A fault that was injected.
pub struct Injected {
    pub what: String,
    /// Time from the start of the run.
    pub at: Duration,
    /// Number of processes killed with SIGKILL.
    pub kills: usize,
    /// Time from its end until the system worked again; `None` if it did not.
    pub healed_after: Option<Duration>,
    /// Sends from its beginning until the system worked again.
    pub sends: Sends,
}

/// Resident memory and open files of every role.
pub type Usage = BTreeMap<&'static str, (u64, usize)>;

/// Reads resident memory in bytes and the number of open files of every role that runs.
pub fn usage(system: &System) -> Usage {
    let of = |role: &&'static str| {
        let process = system.process_id(role)?;
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        let files = std::fs::read_dir(format!("/proc/{process}/fd")).ok()?.count();
        Some((*role, (kilobytes * 1024, files)))
    };
    system.roles().iter().filter_map(of).collect()
}

/// Everything that the table shows.
pub struct Report<'a> {
    pub load: &'a Load,
    pub faults: &'a [Injected],
    pub log_outs: &'a LogOuts,
    pub watchers: &'a [(usize, Watcher)],
    pub usage: (Usage, Usage),
    pub time: Duration,
    /// Times at which everything was compared, and stale numbers seen.
    pub checks: (usize, usize),
}

impl Report<'_> {
    pub fn print(&self) {
        println!("\noperation                started  acknowledged  repeated calls");
        let state = self.load.state.lock();
        for (operation, tally) in &state.tallies {
            println!(
                "{operation:<22} {:>9} {:>13} {:>15}",
                tally.started, tally.acknowledged, tally.repeated
            );
        }
        println!("calls repeated after: {:?}", state.codes);
        if let Some(behind) = state.cache_behind {
            println!("answers from the cache were behind the database for up to {behind:.1?} at rest");
        }
        let messages = state.sent.values().filter(|sent| sent.message.is_some()).count();
        drop(state);
        println!("\nat (s)  healed (s)  sends  repeated  slowest (s)  fault");
        for Injected { what, at, healed_after, sends, .. } in self.faults {
            let healed = healed_after.map_or("not".to_owned(), |time| format!("{:.1}", time.as_secs_f64()));
            println!(
                "{:>6.0}  {healed:>10}  {:>5}  {:>8}  {:>11.2}  {what}",
                at.as_secs_f64(),
                sends.acknowledged,
                sends.repeated,
                sends.slowest.as_secs_f64()
            );
        }
        println!("\nrole        memory (MB)       open files");
        for (role, (bytes, files)) in &self.usage.0 {
            let Some((end_bytes, end_files)) = self.usage.1.get(role) else { continue };
            let megabytes = |bytes: u64| bytes / 1_000_000;
            println!(
                "{role:<10} {:>4} -> {:<4} {files:>11} -> {end_files}",
                megabytes(*bytes),
                megabytes(*end_bytes)
            );
        }
        let frames: usize = self.watchers.iter().map(|(_, watcher)| watcher.watched.lock().frames).sum();
        let connections: usize =
            self.watchers.iter().map(|(_, watcher)| watcher.watched.lock().connections).sum();
        println!(
            "\n{:.0} s, {messages} messages acknowledged, {} faults, {} kills; {} clients received {frames} \
             frames over {connections} sockets",
            self.time.as_secs_f64(),
            self.faults.len(),
            self.faults.iter().map(|fault| fault.kills).sum::<usize>(),
            self.watchers.len()
        );
        println!(
            "{} log-outs acknowledged ({} answered with an error), refused elsewhere within {:.2} s",
            self.log_outs.acknowledged,
            self.log_outs.refused,
            self.log_outs.slowest.as_secs_f64()
        );
        let (checks, stale) = self.checks;
        let field = if self.load.has_stale { "" } else { " (the schema has no field `stale`)" };
        println!("compared at rest {checks} times; {stale} numbers were stale{field}\n");
        self.load.findings.print();
        if self.load.findings.count(Rule::NotAtRest) > 0 {
            println!("(numbers compared while not at rest may be wrong for that reason)");
        }
    }
}
