//! Times as people and programs read them.

use async_graphql::{InputValueError, InputValueResult, Scalar, ScalarType, Value};
use jiff::Timestamp;

/// A time as RFC 3339 has it, in UTC: `2026-01-31T12:00:00.123456Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DateTime(i64);

impl DateTime {
    /// The time so many microseconds after the Unix epoch.
    pub const fn from_microseconds(microseconds: i64) -> Self {
        Self(microseconds)
    }
}

/// A time as RFC 3339 has it, in UTC: `2026-01-31T12:00:00.123456Z`.
#[Scalar]
impl ScalarType for DateTime {
    fn parse(value: Value) -> InputValueResult<Self> {
        let Value::String(text) = &value else { return Err(InputValueError::expected_type(value)) };
        let timestamp: Timestamp =
            text.parse().map_err(|_| InputValueError::custom("not a time of RFC 3339"))?;
        Ok(Self(timestamp.as_microsecond()))
    }

    fn to_value(&self) -> Value {
        let timestamp = Timestamp::from_microsecond(self.0).unwrap_or(Timestamp::UNIX_EPOCH);
        Value::String(timestamp.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let time = DateTime::from_microseconds(1_767_225_600_123_456);
        assert_eq!(time.to_value(), Value::String("2026-01-01T00:00:00.123456Z".to_owned()));
        assert_eq!(DateTime::parse(time.to_value()).expect("a time"), time);
        assert_eq!(
            DateTime::from_microseconds(0).to_value(),
            Value::String("1970-01-01T00:00:00Z".to_owned())
        );
        assert!(DateTime::parse(Value::from("yesterday")).is_err());
    }
}
