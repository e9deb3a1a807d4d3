//! CPU time, context switches and statements between two moments, by process. The generator's own CPU
//! time is a row of its own, so that a reader sees how much of the machine it took.

use crate::{proc, store::Statements};

/// Name of the generator among the processes.
pub const GENERATOR: &str = "generator";

/// A process of the system under test, or an engine.
#[derive(Debug, Clone)]
pub struct Metered {
    /// Name in the tables.
    pub name: String,
    /// Process id.
    pub process: u32,
    /// Its children belong to it: PostgreSQL has a process for each connection.
    pub with_children: bool,
}

/// Readings at one moment.
#[derive(Debug, Clone)]
pub struct Reading {
    /// CPU time in seconds by process.
    cpu_s: Vec<(String, f64)>,
    /// Context switches of all but the generator.
    switches: u64,
    statements: Option<Statements>,
}

/// Costs of a number of operations.
#[derive(Debug, Clone)]
pub struct Cost {
    /// CPU time per operation in microseconds by process, then the sum without the generator, then the
    /// generator.
    pub cpu_us: Vec<(String, f64)>,
    /// Context switches per operation.
    pub switches: f64,
    /// Statements and transactions per operation; `None` where the database does not count them.
    pub statements: Option<(f64, f64)>,
}

impl Reading {
    /// Reads the counters of these processes and of the generator. A database counts its statements itself.
    pub fn take(metered: &[Metered], statements: Option<Statements>) -> anyhow::Result<Self> {
        let mut cpu_s = Vec::new();
        let mut switches = 0;
        for one in metered {
            let stat = proc::Stat::read(one.process);
            let mut seconds = stat.map_or(0.0, |stat| stat.own_s());
            switches += proc::context_switches(one.process);
            if one.with_children {
                seconds = stat.map_or(0.0, |stat| stat.with_reaped_s());
                for child in proc::children(one.process)? {
                    seconds += proc::Stat::read(child).map_or(0.0, |stat| stat.own_s());
                    switches += proc::context_switches(child);
                }
            }
            cpu_s.push((one.name.clone(), seconds));
        }
        let own = proc::Stat::read(std::process::id()).map_or(0.0, |stat| stat.own_s());
        cpu_s.push((GENERATOR.to_owned(), own));
        Ok(Self { cpu_s, switches, statements })
    }

    /// Returns the costs since an earlier reading, shared by this many operations.
    pub fn cost_since(&self, before: &Self, operations: u64) -> Cost {
        let operations = operations.max(1) as f64;
        let used = |(name, after): &(String, f64)| {
            // A process that did not run before has used nothing.
            let before =
                before.cpu_s.iter().find(|(other, _)| other == name).map_or(0.0, |(_, before)| *before);
            (name.clone(), (after - before) * 1e6 / operations)
        };
        let mut cpu_us: Vec<(String, f64)> = self.cpu_s.iter().map(used).collect();
        let generator = cpu_us.len() - 1;
        let total = cpu_us[..generator].iter().map(|(_, us)| us).sum();
        cpu_us.insert(generator, ("all".to_owned(), total));
        let statements = self.statements.zip(before.statements).map(|(after, before)| {
            let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / operations;
            (each(after.calls, before.calls), each(after.transactions, before.transactions))
        });
        let switches = self.switches.saturating_sub(before.switches) as f64 / operations;
        Cost { cpu_us, switches, statements }
    }
}

impl Cost {
    /// Returns the values of a row: CPU time by process, context switches, statements.
    pub fn values(&self) -> Vec<(String, f64)> {
        let mut values: Vec<(String, f64)> =
            self.cpu_us.iter().map(|(name, us)| (format!("{name}, µs"), *us)).collect();
        values.push(("context switches".to_owned(), self.switches));
        if let Some((calls, transactions)) = self.statements {
            values.push(("statements".to_owned(), calls));
            values.push(("transactions".to_owned(), transactions));
        }
        values
    }
}

#[test]
fn costs_are_shared_by_the_operations_and_the_generator_is_apart() {
    let reading = |tidings, generator, switches, calls| Reading {
        cpu_s: vec![("tidings".to_owned(), tidings), (GENERATOR.to_owned(), generator)],
        switches,
        statements: Some(Statements { calls, transactions: calls / 2 }),
    };
    let cost = reading(1.5, 2.0, 300, 40).cost_since(&reading(1.0, 1.0, 100, 20), 10);
    let names: Vec<&str> = cost.cpu_us.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["tidings", "all", "generator"]);
    assert_eq!(cost.cpu_us.iter().map(|(_, us)| *us).collect::<Vec<_>>(), [50_000.0, 50_000.0, 100_000.0]);
    assert_eq!((cost.switches, cost.statements), (20.0, Some((2.0, 1.0))));
    assert_eq!(cost.values().len(), 6);
    let stopped = Reading { cpu_s: vec![(GENERATOR.to_owned(), 1.0)], switches: 0, statements: None };
    let started = reading(1.5, 2.0, 300, 40).cost_since(&stopped, 1);
    assert_eq!(started.cpu_us[0], ("tidings".to_owned(), 1_500_000.0), "a process that was started since");
}
