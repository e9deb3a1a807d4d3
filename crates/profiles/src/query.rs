//! Query of a request for a profile: `seconds` and `format`.

use std::time::Duration;

use crate::Error;

/// Range of `seconds`, and its default.
const SECONDS_MIN: u64 = 1;
const SECONDS_MAX: u64 = 60;
const SECONDS_DEFAULT: u64 = 10;

/// Encoding of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// The compressed message that `pprof` reads.
    Pprof,
    /// A picture.
    Flamegraph,
}

/// Query of a CPU profile.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cpu {
    pub(crate) duration: Duration,
    pub(crate) format: Format,
}

impl Cpu {
    /// Parses `seconds=1..60&format=pprof|flamegraph`. Both are optional.
    ///
    /// # Errors
    /// [`Error::Query`] if a parameter is unknown, given twice or malformed.
    pub(crate) fn parse(query: &str) -> Result<Self, Error> {
        const UNKNOWN: Error = Error::Query("unknown parameter: a CPU profile has seconds and format");
        let mut seconds = None;
        let mut format = None;
        for (name, value) in parameters(query) {
            match name {
                "seconds" if seconds.is_none() => seconds = Some(parse_seconds(value)?),
                "format" if format.is_none() => format = Some(parse_format(value)?),
                "seconds" | "format" => return Err(TWICE),
                _ => return Err(UNKNOWN),
            }
        }
        let duration = Duration::from_secs(seconds.unwrap_or(SECONDS_DEFAULT));
        Ok(Self { duration, format: format.unwrap_or(Format::Pprof) })
    }
}

/// Parses the query of a heap profile: `format=pprof|flamegraph`, optional.
///
/// # Errors
/// [`Error::Query`] if a parameter is unknown, given twice or malformed.
pub(crate) fn parse_heap(query: &str) -> Result<Format, Error> {
    let mut format = None;
    for (name, value) in parameters(query) {
        match name {
            "format" if format.is_none() => format = Some(parse_format(value)?),
            "format" => return Err(TWICE),
            _ => return Err(Error::Query("unknown parameter: a heap profile has only format")),
        }
    }
    Ok(format.unwrap_or(Format::Pprof))
}

const TWICE: Error = Error::Query("a parameter is given twice");

/// Splits a query. No valid value has a character that a client must encode.
fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').unwrap_or((part, "")))
}

fn parse_seconds(value: &str) -> Result<u64, Error> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(seconds) if digits && (SECONDS_MIN..=SECONDS_MAX).contains(&seconds) => Ok(seconds),
        _ => Err(Error::Query("seconds: expected a whole number from 1 to 60")),
    }
}

fn parse_format(value: &str) -> Result<Format, Error> {
    match value {
        "pprof" => Ok(Format::Pprof),
        "flamegraph" => Ok(Format::Flamegraph),
        _ => Err(Error::Query("format: expected pprof or flamegraph")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_optional_and_bounded() {
        let cpu = |seconds, format| Cpu { duration: Duration::from_secs(seconds), format };
        for (query, expected) in [
            ("", cpu(10, Format::Pprof)),
            ("seconds=1", cpu(1, Format::Pprof)),
            ("format=flamegraph&seconds=60", cpu(60, Format::Flamegraph)),
            ("&seconds=5&format=pprof&", cpu(5, Format::Pprof)),
        ] {
            assert_eq!(Cpu::parse(query).expect("valid"), expected, "{query}");
        }
        assert_eq!(parse_heap("").expect("valid"), Format::Pprof);
        assert_eq!(parse_heap("format=flamegraph").expect("valid"), Format::Flamegraph);
    }

    #[test]
    fn an_error_is_one_line_that_names_what_is_expected() {
        for (query, expected) in [
            ("seconds=0", "from 1 to 60"),
            ("seconds=61", "from 1 to 60"),
            ("seconds=1.5", "from 1 to 60"),
            ("seconds=+1", "from 1 to 60"),
            ("seconds=-1", "from 1 to 60"),
            ("seconds=99999999999999999999", "from 1 to 60"),
            ("seconds=", "from 1 to 60"),
            ("seconds", "from 1 to 60"),
            ("seconds=1&seconds=2", "given twice"),
            ("format=svg", "pprof or flamegraph"),
            ("second=1", "seconds and format"),
        ] {
            let error = Cpu::parse(query).expect_err(query).to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{query}: {error}");
        }
        assert!(parse_heap("seconds=1").expect_err("unknown").to_string().contains("only format"));
        assert!(parse_heap("format=x").expect_err("malformed").to_string().contains("pprof or flamegraph"));
    }
}
