//! Generic cell rate algorithm (GCRA). The state of a key is one time, its theoretical arrival time
//! (TAT): the time at which all units taken so far would be used up at the sustained rate.
//!
//! No clock and no I/O: times are durations since an origin that the caller chooses.

use std::{str::FromStr, time::Duration};

/// Rate limit: a number of units per period, evenly spread, and a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Time that one unit uses up.
    interval: Duration,
    /// Maximum distance of the TAT from the present: the interval times the burst.
    tolerance: Duration,
}

/// Permission to use a unit, see [`Rate::take_within`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// New TAT of the key.
    pub tat: Duration,
    /// Time to wait before the unit is used.
    pub wait: Duration,
}

impl Rate {
    /// Creates a limit of `count` units per `period`, of which up to `burst` may be taken at the same
    /// time.
    ///
    /// # Panics
    /// If `count`, `burst` or the time per unit is zero.
    pub const fn new(count: u32, period: Duration, burst: u32) -> Self {
        assert!(count > 0 && burst > 0);
        let interval = period.checked_div(count).expect("the count is not zero");
        assert!(!interval.is_zero());
        Self { interval, tolerance: interval.saturating_mul(burst) }
    }

    /// Takes one unit now and returns the new TAT. A key without units has the TAT zero.
    ///
    /// # Errors
    /// The time to wait until a unit is free.
    pub fn take(self, tat: Duration, now: Duration) -> Result<Duration, Duration> {
        self.take_within(tat, now, Duration::ZERO).map(|admission| admission.tat)
    }

    /// Takes one unit that is free within `wait_max`.
    ///
    /// # Errors
    /// The time to wait until a unit is free, if it is more than `wait_max`.
    pub fn take_within(
        self,
        tat: Duration,
        now: Duration,
        wait_max: Duration,
    ) -> Result<Admission, Duration> {
        let tat = tat.max(now) + self.interval;
        let wait = tat.saturating_sub(now + self.tolerance);
        if wait <= wait_max { Ok(Admission { tat, wait }) } else { Err(wait) }
    }

    /// Gives back one unit that was taken, and returns the new TAT.
    pub fn give_back(self, tat: Duration) -> Duration {
        tat.saturating_sub(self.interval)
    }

    /// Returns the time after which an unused key is back at its initial state and may be removed.
    pub fn expiry(self) -> Duration {
        self.tolerance
    }

    pub(crate) fn interval_us(self) -> u64 {
        whole_us(self.interval)
    }

    pub(crate) fn tolerance_us(self) -> u64 {
        whole_us(self.tolerance)
    }
}

/// Returns whole microseconds, at least 1: an interval of zero would be no limit.
fn whole_us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}

/// Setting of a rate limit; `None` turns the limit off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit(pub Option<Rate>);

/// Error of a text that is not a rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid rate limit: expected COUNT/UNIT or COUNT/UNIT:BURST, such as 100/s:200, with numbers from 1 \
     to 1000000 and a unit of s, m or h; 0 turns the limit off"
)]
pub struct InvalidLimit;

/// Maximum of both numbers. The interval is then at least 1 microsecond, the resolution of the script in
/// Redis.
const COUNT_MAX: u32 = 1_000_000;

impl FromStr for Limit {
    type Err = InvalidLimit;

    /// Parses `100/s:200`, `30/m` (whose burst is the count) and `0`.
    fn from_str(text: &str) -> Result<Self, InvalidLimit> {
        if text == "0" {
            return Ok(Self(None));
        }
        let number = |text: &str| {
            text.parse::<u32>().ok().filter(|number| (1..=COUNT_MAX).contains(number)).ok_or(InvalidLimit)
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
    fn a_burst_is_admitted_and_then_one_unit_per_interval() {
        let rate = Rate::new(20, Duration::from_secs(1), 100);
        let mut tat = Duration::ZERO;
        let now = Duration::from_secs(1000);
        for _ in 0..100 {
            tat = rate.take(tat, now).expect("within the burst");
        }
        assert_eq!(rate.take(tat, now), Err(50 * MS));
        assert_eq!(rate.take(tat, now + 49 * MS), Err(MS));
        tat = rate.take(tat, now + 50 * MS).expect("one unit is free");
        assert_eq!(rate.take(tat, now + 50 * MS), Err(50 * MS));
        tat = rate.take(tat, now + Duration::from_secs(60)).expect("every unit is free");
        assert_eq!(tat, now + Duration::from_secs(60) + 50 * MS, "unused time does not add to the burst");
    }

    #[test]
    fn a_unit_is_reserved_within_the_maximum_wait() {
        let rate = Rate::new(10, Duration::from_secs(1), 1);
        let first = rate.take_within(Duration::ZERO, MS, 150 * MS).expect("a unit is free");
        assert_eq!(first.wait, Duration::ZERO);
        let second = rate.take_within(first.tat, MS, 150 * MS).expect("a unit is free soon");
        assert_eq!(second.wait, 100 * MS);
        assert_eq!(rate.take_within(second.tat, MS, 150 * MS), Err(200 * MS));
    }

    #[test]
    fn a_unit_that_is_given_back_can_be_taken_again() {
        let rate = Rate::new(1, Duration::from_secs(60), 2);
        let now = Duration::from_secs(1000);
        let one = rate.take(Duration::ZERO, now).expect("a unit is free");
        let two = rate.take(one, now).expect("a unit is free");
        assert_eq!(rate.take(two, now), Err(Duration::from_secs(60)));
        assert_eq!(rate.take(rate.give_back(two), now), Ok(two));
        assert_eq!(rate.give_back(MS), Duration::ZERO);
    }

    #[test]
    fn only_the_documented_syntax_is_parsed() {
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
        fn no_window_admits_more_than_burst_and_rate(
            gaps_ms in vec(0_u64..200, 1..400),
            count in 1_u32..50,
            burst in 1_u32..20,
        ) {
            let rate = Rate::new(count, Duration::from_secs(1), burst);
            let mut now = Duration::ZERO;
            let mut tat = Duration::ZERO;
            let mut admitted = Vec::new();
            for gap_ms in gaps_ms {
                now += Duration::from_millis(gap_ms);
                match rate.take(tat, now) {
                    Ok(next) => { tat = next; admitted.push(now); }
                    Err(wait) => {
                        prop_assert!(rate.take(tat, now + wait).is_ok(), "the returned wait is long enough");
                    }
                }
                prop_assert!(tat <= now + rate.expiry());
            }
            for (index, first) in admitted.iter().enumerate() {
                for (further, last) in admitted.iter().enumerate().skip(index) {
                    let allowed = (*last - *first).as_secs_f64() * f64::from(count) + f64::from(burst);
                    prop_assert!((further - index + 1) as f64 <= allowed + 0.001);
                }
            }
        }
    }
}
