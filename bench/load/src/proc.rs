//! Readings of `/proc`: CPU time, context switches and memory of processes.

use std::{fs, path::Path};

use anyhow::Context;

/// Ticks of the CPU times in `/proc` per second: `USER_HZ`, which is 100 on every architecture of Linux
/// that Tidings supports.
const TICKS_A_SECOND: f64 = 100.0;

/// Numbers of `/proc/PID/stat`, proc(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Process id of the parent.
    pub parent: u32,
    /// Ticks of CPU time of the process and all its threads.
    own_ticks: u64,
    /// Ticks of CPU time of children that have ended and were waited for.
    reaped_ticks: u64,
}

impl Stat {
    /// Parses a line. The command in brackets may itself contain brackets and spaces.
    pub fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The first field after the command is the third of the manual's list.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            parent: u32::try_from(field(4)?).ok()?,
            own_ticks: field(14)? + field(15)?,
            reaped_ticks: field(16)? + field(17)?,
        })
    }

    /// Reads it for a process; `None` if the process has ended.
    pub fn read(process: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
    }

    /// Returns the CPU time of the process in seconds.
    pub fn own_s(&self) -> f64 {
        self.own_ticks as f64 / TICKS_A_SECOND
    }

    /// Returns the CPU time of the process and of its children that have ended, in seconds.
    pub fn with_reaped_s(&self) -> f64 {
        (self.own_ticks + self.reaped_ticks) as f64 / TICKS_A_SECOND
    }
}

/// Returns the running children of a process.
pub fn children(parent: u32) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("/proc")? {
        let Some(process) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if Stat::read(process).is_some_and(|stat| stat.parent == parent) {
            found.push(process);
        }
    }
    Ok(found)
}

/// Returns the number of context switches of all threads of a process that still run.
pub fn context_switches(process: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return 0 };
    let statuses =
        threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    statuses.map(|status| switches(&status)).sum()
}

fn switches(status: &str) -> u64 {
    ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"]
        .into_iter()
        .filter_map(|name| number(status, name))
        .sum()
}

/// Returns the resident memory of a process in kB.
pub fn resident_kb(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    number(&status, "VmRSS").context("a process has resident memory")
}

/// Returns the number behind a name in a file of lines such as `VmRSS:   123 kB`.
pub fn number(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns the process id in the first line of a file.
pub fn process_id(file: &Path) -> anyhow::Result<u32> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    text.lines().next().unwrap_or_default().trim().parse().with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_brackets_does_not_shift_the_fields() {
        let line = "42 (a) b) S 7 42 42 0 -1 4194560 100 200 0 0 11 22 33 44 20 0 9 0 1 2 3";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(stat, Stat { parent: 7, own_ticks: 33, reaped_ticks: 77 });
        assert_eq!((stat.own_s(), stat.with_reaped_s()), (0.33, 1.1));
        assert_eq!(Stat::parse("42 (a"), None);
    }

    #[test]
    fn both_kinds_of_context_switches_count() {
        let status =
            "Name:\ta\nVmRSS:\t  123 kB\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t6\n";
        assert_eq!(switches(status), 11);
        assert_eq!(number(status, "VmRSS"), Some(123));
        assert_eq!(number(status, "Vm"), None);
    }

    #[test]
    fn this_process_has_threads_memory_and_a_parent() {
        let own = std::process::id();
        let parent = Stat::read(own).unwrap().parent;
        assert!(children(parent).unwrap().contains(&own));
        assert!(context_switches(own) > 0 && resident_kb(own).unwrap() > 0);
    }
}
