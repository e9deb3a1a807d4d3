//! Results of a scenario as JSON, and their medians over the rounds.

use std::{fs, path::Path};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// Values of one case, measured once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Table that the row belongs to.
    pub table: String,
    /// Case, such as `300 sends/s`.
    pub case: String,
    /// Program, such as `now`.
    pub program: String,
    /// Number of the round.
    pub round: usize,
    /// Values by name, in the order of the columns. A name ends in its unit.
    pub values: Vec<(String, f64)>,
}

/// All rows of a scenario on one kind of system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Name of the scenario.
    pub scenario: String,
    /// Name of the kind of system.
    pub kind: String,
    /// Machine and time.
    pub machine: Machine,
    /// Load average of one minute when the scenario ended.
    pub load_after: f64,
    /// Lines about the run, such as the number of comparisons.
    pub notes: Vec<String>,
    /// Rows of all rounds.
    pub rows: Vec<Row>,
}

impl Results {
    /// Writes them to a file of the folder, which it creates. Results of an earlier run are replaced.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder)?;
        let path = folder.join(format!("{}-{}.json", self.scenario, self.kind));
        fs::write(&path, serde_json::to_vec_pretty(self)?).with_context(|| path.display().to_string())
    }

    /// Reads the results of a scenario; `None` if it was not run.
    pub fn read(folder: &Path, scenario: &str, kind: &str) -> anyhow::Result<Option<Self>> {
        let path = folder.join(format!("{scenario}-{kind}.json"));
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read(&path)?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string()).map(Some)
    }

    /// Returns the names of the tables in the order of their first rows.
    pub fn tables(&self) -> Vec<&str> {
        distinct(self.rows.iter().map(|row| row.table.as_str()))
    }

    /// Returns the number of rounds.
    pub fn rounds(&self) -> usize {
        distinct(self.rows.iter().map(|row| row.round)).len()
    }

    /// Returns the rows of a table: for each case and program, the medians over the rounds. All rows have
    /// the same columns; a value that was not measured is absent.
    pub fn medians(&self, table: &str) -> Medians {
        let rows: Vec<&Row> = self.rows.iter().filter(|row| row.table == table).collect();
        let names = rows.iter().flat_map(|row| row.values.iter().map(|(name, _)| name.as_str()));
        let columns: Vec<String> = distinct(names).into_iter().map(str::to_owned).collect();
        let mut lines = Vec::new();
        for case in distinct(rows.iter().map(|row| row.case.as_str())) {
            let of_case: Vec<&&Row> = rows.iter().filter(|row| row.case == case).collect();
            for program in distinct(of_case.iter().map(|row| row.program.as_str())) {
                let value = |column: &String| {
                    let own = of_case.iter().filter(|row| row.program == program);
                    let found = own.filter_map(|row| row.values.iter().find(|(name, _)| name == column));
                    median(found.map(|(_, value)| *value).collect())
                };
                let values = columns.iter().map(value).collect();
                lines.push(Line { case: case.to_owned(), program: program.to_owned(), values });
            }
        }
        Medians { columns, lines }
    }
}

/// Table of medians.
#[derive(Debug, PartialEq)]
pub struct Medians {
    /// Names of the values.
    pub columns: Vec<String>,
    /// Rows.
    pub lines: Vec<Line>,
}

/// Medians of one case and program.
#[derive(Debug, PartialEq)]
pub struct Line {
    /// Case.
    pub case: String,
    /// Program.
    pub program: String,
    /// Values in the order of the columns.
    pub values: Vec<Option<f64>>,
}

/// Returns the median, the lower one of two.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for value in values {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// `(case, program, round, [(name, value)])`
    type Values<'a> = (&'a str, &'a str, usize, &'a [(&'a str, f64)]);

    /// Returns results with these rows in one table.
    pub fn results(rows: &[Values<'_>]) -> Results {
        let row = |(case, program, round, values): &Values<'_>| Row {
            table: "Latency".to_owned(),
            case: (*case).to_owned(),
            program: (*program).to_owned(),
            round: *round,
            values: values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        };
        Results {
            scenario: "badge".to_owned(),
            kind: "sqlite".to_owned(),
            machine: Machine::default(),
            load_after: 1.0,
            notes: Vec::new(),
            rows: rows.iter().map(row).collect(),
        }
    }

    #[test]
    fn the_median_is_a_measured_value() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(1.0));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn medians_are_by_case_and_program_and_keep_the_order() {
        let rows = results(&[
            ("300/s", "before", 0, &[("p50, ms", 9.0)]),
            ("300/s", "now", 0, &[("p50, ms", 2.0)]),
            ("300/s", "before", 1, &[("p50, ms", 8.0)]),
            ("300/s", "now", 1, &[("p50, ms", 4.0)]),
            ("300/s", "before", 2, &[("p50, ms", 7.0)]),
            ("300/s", "now", 2, &[("p50, ms", 3.0), ("lost", 1.0)]),
        ]);
        let medians = rows.medians("Latency");
        assert_eq!(medians.columns, ["p50, ms", "lost"]);
        let values: Vec<&[Option<f64>]> = medians.lines.iter().map(|line| line.values.as_slice()).collect();
        assert_eq!(values, [[Some(8.0), None], [Some(3.0), Some(1.0)]]);
        assert_eq!((rows.rounds(), rows.tables()), (3, vec!["Latency"]));
    }

    #[test]
    fn results_are_read_as_they_were_written() {
        let folder = std::env::temp_dir().join(format!("tidings-bench-{}", std::process::id()));
        let written = results(&[("a", "now", 0, &[("x", 0.1)])]);
        written.write(&folder).unwrap();
        assert_eq!(Results::read(&folder, "badge", "sqlite").unwrap(), Some(written));
        assert_eq!(Results::read(&folder, "badge", "engines").unwrap(), None);
        fs::remove_dir_all(folder).unwrap();
    }
}
