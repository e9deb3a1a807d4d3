//! The scalar `DateTime`: RFC 3339 text outside, microseconds since the Unix epoch inside.

use std::fmt;

use async_graphql::{InputValueError, InputValueResult, Scalar, ScalarType, Value};
use jiff::Timestamp;

/// A point in time, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DateTime(i64);

impl DateTime {
    /// Creates a time from microseconds since the Unix epoch.
    pub const fn from_microseconds(microseconds: i64) -> Self {
        Self(microseconds)
    }
}

/// A point in time in RFC 3339 format, in UTC, always with six digits of the second, so that the order of
/// the texts is the order of the times: `2026-01-31T12:00:00.123400Z`.
#[Scalar]
impl ScalarType for DateTime {
    fn parse(value: Value) -> InputValueResult<Self> {
        let Value::String(text) = &value else { return Err(InputValueError::expected_type(value)) };
        let timestamp: Timestamp =
            text.parse().map_err(|_| InputValueError::custom("not an RFC 3339 time"))?;
        Ok(Self(timestamp.as_microsecond()))
    }

    fn to_value(&self) -> Value {
        Value::String(self.to_string())
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only a corrupt row is outside the supported years; it must not make the whole response fail.
        let timestamp = Timestamp::from_microsecond(self.0).unwrap_or(Timestamp::UNIX_EPOCH);
        write!(f, "{timestamp:.6}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_formatted_as_rfc_3339_in_utc() {
        let time = DateTime::from_microseconds(1_767_225_600_123_456);
        assert_eq!(time.to_value(), Value::String("2026-01-01T00:00:00.123456Z".to_owned()));
        assert_eq!(DateTime::parse(time.to_value()).expect("a time"), time);
        assert_eq!(
            DateTime::from_microseconds(0).to_value(),
            Value::String("1970-01-01T00:00:00.000000Z".to_owned())
        );
        assert!(DateTime::parse(Value::from("yesterday")).is_err());
    }
}
