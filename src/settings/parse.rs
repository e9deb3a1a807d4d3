//! Parsers of settings. Their errors are shown by clap, which names the flag and the value.

use std::{net::SocketAddr, time::Duration};

const DURATION_MAX_MS: u64 = 3_650 * 86_400_000;

/// Parses an `IP:PORT`. Host names are refused, because one could resolve to several addresses.
///
/// # Errors
/// A description of the format.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "an address is IP:PORT, such as 127.0.0.1:8080".to_owned())
}

/// Parses a duration such as `250ms`, `10s`, `5m`, `1h` or `30d`: from 1 ms to ten years.
///
/// # Errors
/// A description of the format, or of the limit.
pub fn duration(text: &str) -> Result<Duration, String> {
    let malformed = || "a duration is a number from 1 with a unit (ms, s, m, h or d), such as 10s".to_owned();
    let unit = text.find(|symbol: char| !symbol.is_ascii_digit()).ok_or_else(malformed)?;
    let number: u64 = text[..unit].parse().ok().filter(|number| *number > 0).ok_or_else(malformed)?;
    let unit_ms = match &text[unit..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(malformed()),
    };
    let duration_ms = number.checked_mul(unit_ms).filter(|duration_ms| *duration_ms <= DURATION_MAX_MS);
    duration_ms.map(Duration::from_millis).ok_or_else(|| "a duration is at most ten years".to_owned())
}

/// Parses the lifetime of a token: at least 1 s, because the claims of a token count whole seconds.
///
/// # Errors
/// A description of the format, or of the limit.
pub fn token_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = duration(text)?;
    if lifetime < Duration::from_secs(1) {
        Err("the lifetime of a token is at least 1s".to_owned())
    } else {
        Ok(lifetime)
    }
}

/// Parses a name of a process that Kafka accepts as `group.instance.id`.
///
/// # Errors
/// A description of the format.
pub fn instance(text: &str) -> Result<String, String> {
    let is_allowed = |symbol: char| symbol.is_ascii_alphanumeric() || "._-".contains(symbol);
    if (1..=64).contains(&text.len()) && text.chars().all(is_allowed) {
        return Ok(text.to_owned());
    }
    Err("a name is 1 to 64 letters, digits, dots, dashes and underscores".to_owned())
}

/// Parses `on` or `off`.
///
/// # Errors
/// A message that names the two values.
pub fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected on or off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_number_and_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for wrong in ["", "10", "s", "0s", "-1s", "1w", "1.5h", "10 s", "99999999999999999999s", "9999999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_instance_is_a_name_that_kafka_accepts() {
        assert_eq!(instance("counter-1.eu_west"), Ok("counter-1.eu_west".to_owned()));
        assert!(instance(&"x".repeat(64)).is_ok());
        for wrong in ["", "a b", "ä", &"x".repeat(65)] {
            assert!(instance(wrong).is_err(), "{wrong}");
        }
    }
}
