//! How long answers took lately: a window of time is filled while the one before it says what is late.

use std::time::Duration;

use tokio::time::Instant;

/// How long a window lasts at most.
pub const LASTS: Duration = Duration::from_secs(10);
/// How many answers end a window before its time.
const ANSWERS_MAX: usize = 1_000;
/// Fewer answers than these say nothing.
const ANSWERS_MIN: usize = 20;
/// A timer knows no shorter time, and asking twice within it would help nobody.
const LATE_MIN: Duration = Duration::from_millis(2);

/// A window that is being filled, and what the last one has shown.
#[derive(Debug, Default)]
pub(crate) struct Window {
    begun: Option<Instant>,
    took: Vec<Duration>,
    late_after: Option<Duration>,
}

impl Window {
    /// The time within which 95 of 100 answers of the last window came; `None` where nobody knows.
    pub(crate) fn late_after(&mut self, now: Instant) -> Option<Duration> {
        let begun = *self.begun.get_or_insert(now);
        let age = now.saturating_duration_since(begun);
        if age >= LASTS || self.took.len() >= ANSWERS_MAX {
            // What happened before a long silence is not what happens now.
            self.late_after = if age < 2 * LASTS { percentile_95(&mut self.took) } else { None };
            self.took.clear();
            self.begun = Some(now);
        }
        self.late_after
    }

    /// An answer took so long.
    pub(crate) fn answered(&mut self, took: Duration) {
        if self.took.len() < ANSWERS_MAX {
            self.took.push(took);
        }
    }
}

fn percentile_95(took: &mut [Duration]) -> Option<Duration> {
    if took.len() < ANSWERS_MIN {
        return None;
    }
    let place = took.len() * 95 / 100;
    let (_, late, _) = took.select_nth_unstable(place);
    Some((*late).max(LATE_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn filled(answers: u32) -> (Window, Instant) {
        let (mut window, now) = (Window::default(), Instant::now());
        assert_eq!(window.late_after(now), None);
        (1..=answers).for_each(|number| window.answered(number * MS));
        (window, now)
    }

    #[test]
    fn the_last_window_says_what_is_late() {
        let (mut window, now) = filled(100);
        assert_eq!(window.late_after(now + LASTS - MS), None, "it has not ended");
        assert_eq!(window.late_after(now + LASTS), Some(96 * MS));
        (0..50).for_each(|_| window.answered(7 * MS));
        assert_eq!(window.late_after(now + 2 * LASTS - MS), Some(96 * MS));
        assert_eq!(window.late_after(now + 2 * LASTS), Some(7 * MS));
    }

    #[test]
    fn many_answers_end_a_window_and_a_window_holds_no_more() {
        let (mut window, now) = filled(3_000);
        assert_eq!(window.took.len(), ANSWERS_MAX);
        assert_eq!(window.late_after(now + MS), Some(951 * MS));
        assert!(window.took.is_empty());
    }

    #[test]
    fn few_answers_and_answers_of_long_ago_say_nothing() {
        let (mut window, now) = filled(ANSWERS_MIN as u32 - 1);
        assert_eq!(window.late_after(now + LASTS), None);
        let (mut window, now) = filled(ANSWERS_MIN as u32);
        assert_eq!(window.late_after(now + LASTS), Some(20 * MS));
        let (mut window, now) = filled(100);
        assert_eq!(window.late_after(now + 2 * LASTS), None);
    }

    #[test]
    fn nothing_is_late_before_a_timer_can_tell() {
        let (mut window, now) = filled(0);
        (0..100).for_each(|_| window.answered(Duration::from_micros(30)));
        assert_eq!(window.late_after(now + LASTS), Some(LATE_MIN));
    }
}
