//! The header `traceparent` of W3C Trace Context: the trace that a call belongs to and the span that
//! made the call. <https://www.w3.org/TR/trace-context/>

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::fmt;

use uuid::Uuid;

/// Length of a version 00 header, in characters.
const LENGTH: usize = 55;
/// Flag of a trace that is recorded.
const SAMPLED: u8 = 1;

/// Trace id, span id and flags. Neither id is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Traceparent {
    trace: u128,
    span: u64,
    flags: u8,
}

impl Traceparent {
    /// Parses the header. For later versions, only the fields of version 00 are parsed and the rest
    /// is ignored, as the specification requires. Returns `None` if the header is malformed.
    pub fn parse(text: &str) -> Option<Self> {
        let head = text.get(..LENGTH)?;
        let mut parts = head.split('-');
        let version = hex(parts.next()?, 2)?;
        let trace = hex(parts.next()?, 32)?;
        let span = u64::try_from(hex(parts.next()?, 16)?).ok()?;
        let flags = u8::try_from(hex(parts.next()?, 2)?).ok()?;
        let rest = text.get(LENGTH..)?;
        let rest_fits = rest.is_empty() || (version > 0 && rest.starts_with('-'));
        (parts.next().is_none() && rest_fits && version != 0xff && trace != 0 && span != 0).then_some(Self {
            trace,
            span,
            flags,
        })
    }

    /// Creates one from its parts.
    pub(crate) fn new(trace: u128, span: u64, flags: u8) -> Self {
        Self { trace, span, flags }
    }

    /// Starts a new trace that is not exported.
    pub fn random() -> Self {
        Self { trace: Uuid::new_v4().as_u128(), span: random_span(), flags: 0 }
    }

    /// Returns the id of the trace. As text it has 32 lower-case hexadecimal digits.
    pub fn trace_id(&self) -> u128 {
        self.trace
    }

    /// Returns the id of the span. As text it has 16 lower-case hexadecimal digits.
    pub fn span_id(&self) -> u64 {
        self.span
    }

    /// Returns true if the trace is exported.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    pub(crate) fn flags(&self) -> u8 {
        self.flags
    }

    /// Returns a new span of the same trace.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span: random_span(), ..*self }
    }
}

/// Returns a random span id. It is not zero, because these bits contain the version of the UUID.
fn random_span() -> u64 {
    Uuid::new_v4().as_u64_pair().0
}

/// Parses exactly this many lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let fits = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if fits { u128::from_str_radix(text, 16).ok() } else { None }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_header_round_trips() {
        assert_eq!(Traceparent::parse(VALID).map(|it| it.to_string()).as_deref(), Some(VALID));
        let random = Traceparent::random();
        assert_eq!(Traceparent::parse(&random.to_string()), Some(random));
    }

    #[test]
    fn the_first_fields_of_a_later_version_are_parsed() {
        let later = format!("01{}-later-fields", &VALID[2..]);
        assert_eq!(Traceparent::parse(&later), Traceparent::parse(VALID));
    }

    #[test]
    fn a_child_is_another_span_of_the_same_trace() {
        let parent = Traceparent::random();
        let child = parent.child();
        assert_eq!(child.trace, parent.trace);
        assert_ne!(child.span, parent.span);
    }

    #[test]
    fn malformed_headers_are_rejected() {
        for malformed in [
            "",
            "00",
            &VALID[..54],
            &format!("{VALID}-more"),
            &format!("01{}more", &VALID[2..]),
            &format!("ff{}", &VALID[2..]),
            &VALID.to_uppercase(),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47-36-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e473+-00f067aa0ba902b7-01",
            &"ü".repeat(55),
        ] {
            assert_eq!(Traceparent::parse(malformed), None, "{malformed:?}");
        }
    }
}
