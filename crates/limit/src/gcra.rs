//! The generic cell rate algorithm: for each key one number, the time at which everything that was taken is paid for. No
//! clock, no I/O; times count from an origin of the caller's.

use std::{str::FromStr, time::Duration};

/// So many in a period, evenly, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// What one costs.
    interval: Duration,
    /// What may be owed at once.
    tolerance: Duration,
}

impl Rate {
    /// `count` in each `period`, `burst` at once. None of them may be zero.
    pub const fn new(count: u32, period: Duration, burst: u32) -> Self {
        assert!(count > 0 && burst > 0);
        let interval = period.checked_div(count).expect("it is not zero");
        assert!(!interval.is_zero());
        Self { interval, tolerance: interval.saturating_mul(burst) }
    }

    /// Takes one where everything before it is paid for at `due`: when this one will be too.
    ///
    /// # Errors
    /// How long to wait for one.
    pub fn take(self, due: Duration, now: Duration) -> Result<Duration, Duration> {
        self.take_within(due, now, Duration::ZERO).map(|(due, _)| due)
    }

    /// Takes one that may be had within `patience`: when it will be paid for, and how long to wait before it is used.
    ///
    /// # Errors
    /// How long to wait for one, more than `patience`.
    pub fn take_within(
        self,
        due: Duration,
        now: Duration,
        patience: Duration,
    ) -> Result<(Duration, Duration), Duration> {
        let next = due.max(now) + self.interval;
        let wait = next.saturating_sub(now + self.tolerance);
        if wait <= patience { Ok((next, wait)) } else { Err(wait) }
    }

    /// After this time without any nothing is owed: the key may be forgotten.
    pub fn memory(self) -> Duration {
        self.tolerance
    }

    /// What one costs and what may be owed, in microseconds.
    pub(crate) fn micros(self) -> (u64, u64) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        (micros(self.interval), micros(self.tolerance))
    }
}

/// A rate, or none: as a setting says it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit(pub Option<Rate>);

/// What is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a limit is a number from 1 to 1000000, a slash and s, m or h, and with a colon how many may come at once, such as 100/s:200; 0 is none"
)]
pub struct InvalidLimit;

/// The most of anything: an interval is a microsecond at least.
const MAX: u32 = 1_000_000;

impl FromStr for Limit {
    type Err = InvalidLimit;

    /// Reads `100/s:200`, `30/m` (as many at once), `0`.
    fn from_str(text: &str) -> Result<Self, InvalidLimit> {
        if text == "0" {
            return Ok(Self(None));
        }
        let number = |text: &str| {
            text.parse::<u32>().ok().filter(|number| (1..=MAX).contains(number)).ok_or(InvalidLimit)
        };
        let (count, rest) = text.split_once('/').ok_or(InvalidLimit)?;
        let (unit, burst) = rest.split_once(':').unwrap_or((rest, count));
        let period_s = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(InvalidLimit),
        };
        Ok(Self(Some(Rate::new(number(count)?, Duration::from_secs(period_s), number(burst)?))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_passes_at_once_and_then_one_for_each_interval() {
        let rate = Rate::new(20, Duration::from_secs(1), 100);
        let mut due = Duration::ZERO;
        let now = Duration::from_secs(1000);
        for _ in 0..100 {
            due = rate.take(due, now).expect("within the burst");
        }
        assert_eq!(rate.take(due, now), Err(50 * MS));
        assert_eq!(rate.take(due, now + 49 * MS), Err(MS));
        due = rate.take(due, now + 50 * MS).expect("one was paid for");
        assert_eq!(rate.take(due, now + 50 * MS), Err(50 * MS));
        due = rate.take(due, now + Duration::from_secs(60)).expect("all is paid for");
        assert_eq!(due, now + Duration::from_secs(60) + 50 * MS, "and nothing is saved up");
    }

    #[test]
    fn who_is_patient_waits_for_a_turn() {
        let rate = Rate::new(10, Duration::from_secs(1), 1);
        let (due, wait) = rate.take_within(Duration::ZERO, MS, 150 * MS).expect("at once");
        assert_eq!(wait, Duration::ZERO);
        let (due, wait) = rate.take_within(due, MS, 150 * MS).expect("in a moment");
        assert_eq!(wait, 100 * MS);
        assert_eq!(rate.take_within(due, MS, 150 * MS), Err(200 * MS));
    }

    #[test]
    fn a_limit_is_spelt_in_one_way() {
        let rate =
            |count, period_s, burst| Ok(Limit(Some(Rate::new(count, Duration::from_secs(period_s), burst))));
        assert_eq!("100/s:200".parse(), rate(100, 1, 200));
        assert_eq!("30/m".parse(), rate(30, 60, 30));
        assert_eq!("1/h:1".parse(), rate(1, 3600, 1));
        assert_eq!("0".parse(), Ok(Limit(None)));
        for wrong in
            ["", "1", "0/s", "1/d", "1/s:", "1/s:0", "-1/s", "1/s:2:3", "/s", "1000001/s", "1 / s", "off"]
        {
            assert_eq!(wrong.parse::<Limit>(), Err(InvalidLimit), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn in_no_window_more_pass_than_burst_and_rate_allow(gaps_ms in vec(0_u64..200, 1..400), count in 1_u32..50, burst in 1_u32..20) {
            let rate = Rate::new(count, Duration::from_secs(1), burst);
            let (mut now, mut due, mut passed) = (Duration::ZERO, Duration::ZERO, Vec::new());
            for gap_ms in gaps_ms {
                now += Duration::from_millis(gap_ms);
                match rate.take(due, now) {
                    Ok(next) => { due = next; passed.push(now); }
                    Err(wait) => {
                        prop_assert!(rate.take(due, now + wait).is_ok(), "the wait that is told is long enough");
                    }
                }
                prop_assert!(due <= now + rate.memory());
            }
            for (index, first) in passed.iter().enumerate() {
                for (further, last) in passed.iter().enumerate().skip(index) {
                    let allowed = (*last - *first).as_secs_f64() * f64::from(count) + f64::from(burst);
                    prop_assert!((further - index + 1) as f64 <= allowed + 0.001);
                }
            }
        }
    }
}
