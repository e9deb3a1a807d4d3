//! Output of the demo: a status line while it runs, and a table at the end.

use std::{
    io::{self, IsTerminal, Write},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{
    chat::Chat,
    person::{Comparison, Person},
    plan,
};

/// Interval between two lines where the output is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// Longest line on a terminal.
const LINE_MAX_CHARS: usize = 79;
/// Differences that are printed.
const PRINTED_MAX: usize = 20;

/// Line that shows the counts: drawn again on a terminal, printed every few seconds elsewhere.
pub struct StatusLine {
    is_terminal: bool,
    printed_at: Duration,
}

impl StatusLine {
    /// Creates the line.
    pub fn new() -> Self {
        Self { is_terminal: io::stdout().is_terminal(), printed_at: Duration::ZERO }
    }

    /// Shows the counts after this time, if the last line is old enough.
    #[expect(clippy::print_stdout, reason = "the output of the command")]
    pub fn show(&mut self, elapsed: Duration, people: &[Person]) {
        let text = status(elapsed, people);
        if self.is_terminal {
            let text: String = text.chars().take(LINE_MAX_CHARS).collect();
            print!("\r{text}\x1b[K");
            drop(io::stdout().flush());
        } else if elapsed >= self.printed_at + LINE_INTERVAL {
            self.printed_at = elapsed;
            println!("{text}");
        }
    }

    /// Removes the line from a terminal.
    #[expect(clippy::print_stdout, reason = "the output of the command")]
    pub fn clear(&mut self) {
        if self.is_terminal {
            print!("\r\x1b[K");
        }
    }
}

fn status(elapsed: Duration, people: &[Person]) -> String {
    let sum =
        |count: fn(&Person) -> &AtomicU64| -> u64 { people.iter().map(|person| value(count(person))).sum() };
    let sent = sum(|person| &person.done.sent);
    let read = sum(|person| &person.done.read);
    let frames: u64 = people.iter().map(|person| person.badge().frames).sum();
    let badge =
        |(index, person): (usize, &Person)| format!(" {} {}", plan::name(index), person.badge().total);
    let badges: String = people.iter().enumerate().map(badge).collect();
    format!("{} s: {sent} sent, {read} reads, {frames} frames; unread:{badges}", elapsed.as_secs())
}

fn value(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

/// Prints how to sign in as one of the people.
#[expect(clippy::print_stdout, reason = "the output of the command")]
pub fn print_people(chat: &Chat, password: &str) {
    println!("{} people chat in {} dialogs.", chat.people.len(), chat.dialogs.len());
    println!("Sign in as one of them at {}, run WatchUnread and watch the count.", chat.api.url);
    println!("The password of all is {password}");
    for logins in chat.people.chunks(6) {
        let logins: Vec<&str> = logins.iter().map(|person| &*person.login).collect();
        println!("  {}", logins.join("  "));
    }
}

/// Columns of the table beside the name.
const COLUMNS: [&str; 8] = ["sent", "reads", "deleted", "failed", "frames", "badge", "query", "differences"];

/// Prints the table and the differences. Returns true if there are none.
#[expect(clippy::print_stdout, reason = "the output of the command")]
pub fn print_result(chat: &Chat, elapsed: Duration, comparisons: &[Comparison], has_pending: bool) -> bool {
    let rows: Vec<Row> = chat.people.iter().zip(comparisons).map(Row::of).collect();
    print!("{}", table(rows));
    let people = chat.people.iter().zip(comparisons);
    let differences: Vec<String> = people.flat_map(describe).collect();
    differences.iter().take(PRINTED_MAX).for_each(|line| println!("{line}"));
    if differences.len() > PRINTED_MAX {
        println!("{} more differences are not printed", differences.len() - PRINTED_MAX);
    }
    if let Some(error) = &*chat.first_error.lock() {
        println!("the first failure: {error}");
    }
    let reconnects: u64 = chat.people.iter().map(|person| value(&person.done.reconnects)).sum();
    println!(
        "{:.1} s; {} operations were delayed by the server, {} turns left out, {reconnects} sockets opened \
         again",
        elapsed.as_secs_f64(),
        chat.api.waits(),
        value(&chat.left_out)
    );
    if has_pending {
        println!("messages are still PENDING, so the counts are not final");
    }
    println!("differences: {}", differences.len());
    differences.is_empty() && !has_pending
}

fn describe((person, comparison): (&Person, &Comparison)) -> Vec<String> {
    comparison.differences.iter().map(|line| format!("{}: {line}", person.login)).collect()
}

/// Row of the table.
struct Row {
    name: String,
    numbers: [i64; COLUMNS.len()],
}

impl Row {
    fn of((person, comparison): (&Person, &Comparison)) -> Self {
        let done = &person.done;
        let counts = [&done.sent, &done.read, &done.deleted, &done.failed].map(value);
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let [sent, read, deleted, failed] = counts.map(number);
        let Comparison { frames, folded, asked, differences } = comparison;
        let numbers =
            [sent, read, deleted, failed, number(*frames), *folded, *asked, number(differences.len() as u64)];
        Self { name: person.login.clone(), numbers }
    }
}

/// Formats the rows and their sum.
fn table(mut rows: Vec<Row>) -> String {
    let mut sum = Row { name: "all".to_owned(), numbers: [0; COLUMNS.len()] };
    for row in &rows {
        sum.numbers.iter_mut().zip(row.numbers).for_each(|(sum, number)| *sum += number);
    }
    rows.push(sum);
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max("person".len());
    let mut text = format!("{:width$}", "person");
    COLUMNS.iter().for_each(|column| text.push_str(&format!("  {column:>7}")));
    for Row { name, numbers } in rows {
        text.push_str(&format!("\n{name:width$}"));
        for (column, number) in COLUMNS.iter().zip(numbers) {
            text.push_str(&format!("  {number:>0$}", column.len().max(7)));
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_person_and_their_sum() {
        let row = |name: &str, numbers| Row { name: name.to_owned(), numbers };
        let text = table(vec![
            row("ana-1a2b3", [10, 3, 1, 0, 40, 5, 5, 0]),
            row("ben-1a2b3", [2, 0, 0, 1, 7, 12, 13, 1]),
        ]);
        let expected = "\
person        sent    reads  deleted   failed   frames    badge    query  differences
ana-1a2b3       10        3        1        0       40        5        5            0
ben-1a2b3        2        0        0        1        7       12       13            1
all             12        3        1        1       47       17       18            1
";
        assert_eq!(text, expected);
    }
}
