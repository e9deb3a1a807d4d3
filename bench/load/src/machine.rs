//! Description of the machine and of the sources, for the head of the report.

use std::{fs, process::Command};

use serde::{Deserialize, Serialize};

use crate::proc;

/// Machine, sources and time of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Number of CPU cores.
    pub cores: usize,
    /// Model of the CPU.
    pub cpu: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Version of the kernel.
    pub kernel: String,
    /// Commit of the sources, with a mark if they have changes.
    pub commit: String,
    /// Time of the start, in UTC.
    pub time: String,
    /// Load average of one minute at the start.
    pub load: f64,
}

impl Machine {
    /// Reads the description.
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: model(&text("/proc/cpuinfo")),
            memory_mib: proc::number(&text("/proc/meminfo"), "MemTotal").unwrap_or_default() / 1024,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: commit(),
            time: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            load: load(),
        }
    }
}

/// Returns the load average of one minute.
pub fn load() -> f64 {
    first_number(&fs::read_to_string("/proc/loadavg").unwrap_or_default())
}

fn first_number(text: &str) -> f64 {
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

fn model(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, model)| model).trim().to_owned()
}

/// Returns the commit that is checked out in the folder of the sources, or `unknown` without git.
fn commit() -> String {
    let describe = ["describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"];
    let output = Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR")]).args(describe).output();
    let text = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    text.map_or("unknown".to_owned(), |text| String::from_utf8_lossy(&text).trim().to_owned())
}

#[test]
fn the_files_of_the_kernel_are_parsed() {
    assert_eq!(first_number("2.26 1.36 0.58 1/100 42\n"), 2.26);
    assert_eq!(model("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\n"), "A CPU @ 2 GHz");
    assert_eq!(model(""), "unknown");
    assert!(Machine::read().memory_mib > 0);
}
