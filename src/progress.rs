//! Progress of a command: a bar that is drawn again on a terminal, a line every few seconds elsewhere.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use counter::Progress;

/// Interval between two drawings on a terminal.
const DRAW_INTERVAL: Duration = Duration::from_millis(200);
/// Interval between two lines elsewhere.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// Width of the bar in characters.
const BAR_WIDTH: u64 = 30;

/// Line that shows progress.
pub struct ProgressLine {
    verb: &'static str,
    is_terminal: bool,
    start: Instant,
    shown_at: Instant,
    progress: Progress,
    is_drawn: bool,
}

impl ProgressLine {
    /// Creates the line. `verb` says what has happened to the dialogs.
    pub fn new(verb: &'static str) -> Self {
        let start = Instant::now();
        let is_terminal = io::stdout().is_terminal();
        Self { verb, is_terminal, start, shown_at: start, progress: Progress::default(), is_drawn: false }
    }

    /// Shows progress, if the last time is long enough ago.
    #[expect(clippy::print_stdout, reason = "the output of the command")]
    pub fn show(&mut self, progress: Progress) {
        self.progress = progress;
        let interval = if self.is_terminal { DRAW_INTERVAL } else { LINE_INTERVAL };
        if self.shown_at.elapsed() < interval {
            return;
        }
        self.shown_at = Instant::now();
        if self.is_terminal {
            print!("\r{} {}\x1b[K", bar(progress), self.text());
            drop(io::stdout().flush());
            self.is_drawn = true;
        } else {
            println!("{}", self.text());
        }
    }

    /// Removes the bar, so that another line can be printed in its place.
    #[expect(clippy::print_stdout, reason = "the output of the command")]
    pub fn clear(&mut self) {
        if self.is_drawn {
            print!("\r\x1b[K");
            self.is_drawn = false;
        }
    }

    /// Prints the final line.
    #[expect(clippy::print_stdout, reason = "the output of the command")]
    pub fn finish(&mut self) {
        self.clear();
        println!("{}", self.text());
    }

    fn text(&self) -> String {
        let Progress { dialogs, messages, .. } = self.progress;
        let seconds = self.start.elapsed().as_secs_f64();
        let rate = messages as f64 / seconds.max(0.001);
        let verb = self.verb;
        format!("{verb} {dialogs} dialogs with {messages} messages in {seconds:.1} s, {rate:.0} messages/s")
    }
}

fn bar(progress: Progress) -> String {
    let all = progress.known_dialogs.max(progress.dialogs).max(1);
    let done = (progress.dialogs * BAR_WIDTH / all) as usize;
    format!("[{}{}]", "#".repeat(done), " ".repeat(BAR_WIDTH as usize - done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_full_at_the_end_and_never_longer() {
        let bar_of = |dialogs, known_dialogs| bar(Progress { dialogs, messages: 0, known_dialogs });
        assert_eq!(bar_of(0, 0), format!("[{}]", " ".repeat(30)));
        assert_eq!(bar_of(5, 10), format!("[{}{}]", "#".repeat(15), " ".repeat(15)));
        assert_eq!(bar_of(12, 10), format!("[{}]", "#".repeat(30)));
    }
}
