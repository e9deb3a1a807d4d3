//! docs/benchmarks.md: a section for each scenario and kind of system, with medians and ratios.

use std::fmt::Write;

use crate::{
    result::{Line, Medians, Results},
    scenario::Scenario,
    system::Kind,
};

/// Program that was built from these sources.
pub const NOW: &str = "now";
/// Program that it is compared with.
pub const BEFORE: &str = "before";

const HEAD: &str = "# Benchmarks

Written by `make bench`; do not edit. `make help` lists the targets of the parts. The load generator
([bench/load](../bench/load)) checks every answer and, at the end of every run, the counts of every user
against those that follow from the acknowledged sends. A run with one difference fails and writes nothing
here.

The generator shares the machine with the system. Its CPU time is a column of its own and not part of *all*.
CPU times are those of all threads and, for PostgreSQL, of all its processes. PostgreSQL runs without
`fsync` (`deploy/engines/postgres.sh`). The rate limits are off; all other settings are the defaults. Values
are medians over the rounds; the programs of a comparison take turns in every round.
";

/// Renders all results.
pub fn render(results: &[(Scenario, Kind, Results)]) -> String {
    let mut text = HEAD.to_owned();
    let mut current = None;
    for (scenario, kind, results) in results {
        if current != Some(*scenario) {
            let _ = write!(text, "\n## {}\n\n{}\n", scenario.title(), wrapped(scenario.text()));
            current = Some(*scenario);
        }
        let _ = write!(
            text,
            "\n### {}: {}\n\n{}\n",
            scenario.title(),
            kind.title(),
            wrapped(&conditions(results))
        );
        for table in results.tables() {
            let _ = write!(text, "\n{table}:\n\n{}", render_table(&results.medians(table)));
        }
    }
    text
}

/// Returns a sentence about machine, commit and load.
fn conditions(results: &Results) -> String {
    let machine = &results.machine;
    let rounds = results.rounds();
    let mut text = format!(
        "{}, commit {}, {rounds} round{}. {} cores ({}), {} MiB of memory, Linux {}. Load average {} before \
         and {} after the run.",
        machine.time,
        machine.commit,
        if rounds == 1 { "" } else { "s" },
        machine.cores,
        machine.cpu,
        machine.memory_mib,
        machine.kernel,
        machine.load,
        results.load_after
    );
    for note in &results.notes {
        let _ = write!(text, " {note}");
    }
    text
}

/// Renders a table: a row for each case and program, and the ratio below a pair to compare.
fn render_table(medians: &Medians) -> String {
    let compared = medians.lines.iter().any(|line| line.program != NOW);
    let mut text = String::from(if compared { "| case | program |" } else { "| case |" });
    for column in &medians.columns {
        let _ = write!(text, " {column} |");
    }
    text.push_str(if compared { "\n|---|---|" } else { "\n|---|" });
    text.push_str(&"--:|".repeat(medians.columns.len()));
    text.push('\n');
    for (index, line) in medians.lines.iter().enumerate() {
        render_line(&mut text, &line.case, compared.then_some(line.program.as_str()), &line.values, number);
        let is_last = medians.lines.get(index + 1).is_none_or(|next| next.case != line.case);
        if is_last {
            render_ratios(&mut text, medians.lines.iter().filter(|other| other.case == line.case).collect());
        }
    }
    text
}

/// Renders the ratios of this program to every other one.
fn render_ratios(text: &mut String, lines: Vec<&Line>) {
    let Some(now) = lines.iter().find(|line| line.program == NOW) else { return };
    for other in lines.iter().filter(|line| line.program != NOW) {
        let ratio = |(now, other): (&Option<f64>, &Option<f64>)| {
            let other = (*other).filter(|other| *other != 0.0)?;
            Some((*now)? / other)
        };
        let ratios: Vec<Option<f64>> = now.values.iter().zip(&other.values).map(ratio).collect();
        render_line(text, &now.case, Some(&format!("now / {}", other.program)), &ratios, |ratio| {
            format!("{ratio:.2}")
        });
    }
}

fn render_line(
    text: &mut String,
    case: &str,
    program: Option<&str>,
    values: &[Option<f64>],
    format: impl Fn(f64) -> String,
) {
    let _ = write!(text, "| {case} |");
    if let Some(program) = program {
        let _ = write!(text, " {program} |");
    }
    for value in values {
        let _ = write!(text, " {} |", value.map_or("–".to_owned(), &format));
    }
    text.push('\n');
}

/// Formats with three significant digits at least, and thousands separated.
fn number(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude == 0.0 {
        return "0".to_owned();
    }
    if magnitude < 10.0 {
        return format!("{value:.2}");
    }
    if magnitude < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{magnitude:.0}");
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Breaks a paragraph into lines of at most 118 characters.
fn wrapped(paragraph: &str) -> String {
    let mut text = String::new();
    let mut length = 0;
    for word in paragraph.split_whitespace() {
        let own = word.chars().count();
        if length > 0 && length + 1 + own > 118 {
            text.push('\n');
            length = 0;
        } else if length > 0 {
            text.push(' ');
            length += 1;
        }
        text.push_str(word);
        length += own;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::tests::results;

    #[test]
    fn numbers_have_three_digits_and_separators() {
        let cases = [
            (0.0, "0"),
            (0.126, "0.13"),
            (12.34, "12.3"),
            (123.4, "123"),
            (1234.0, "1,234"),
            (1e6, "1,000,000"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!(number(-1234.0), "-1,234");
    }

    #[test]
    fn a_comparison_has_a_row_of_ratios() {
        let rows = results(&[
            ("300/s", BEFORE, 0, &[("p50, ms", 8.0), ("refused", 0.0)]),
            ("300/s", NOW, 0, &[("p50, ms", 2.0), ("refused", 0.0)]),
        ]);
        let expected = "| case | program | p50, ms | refused |\n|---|---|--:|--:|\n\
                        | 300/s | before | 8.00 | 0 |\n| 300/s | now | 2.00 | 0 |\n\
                        | 300/s | now / before | 0.25 | – |\n";
        assert_eq!(render_table(&rows.medians("Latency")), expected);
    }

    #[test]
    fn a_single_program_is_not_named() {
        let rows = results(&[("300/s", NOW, 0, &[("p50, ms", 2.0)])]);
        assert_eq!(
            render_table(&rows.medians("Latency")),
            "| case | p50, ms |\n|---|--:|\n| 300/s | 2.00 |\n"
        );
    }

    #[test]
    fn a_scenario_has_one_heading_and_no_line_is_too_long() {
        let rows = results(&[("300/s", NOW, 0, &[("p50, ms", 2.0)])]);
        let sections =
            [(Scenario::Badge, Kind::Sqlite, rows.clone()), (Scenario::Badge, Kind::Engines, rows)];
        let text = render(&sections);
        assert_eq!(text.matches("\n## ").count(), 1);
        assert_eq!(text.matches("\n### ").count(), 2);
        assert!(text.lines().all(|line| line.starts_with('|') || line.chars().count() <= 120), "{text}");
    }
}
