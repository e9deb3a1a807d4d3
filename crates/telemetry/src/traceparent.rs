//! The W3C trace context header `traceparent`: which trace a call belongs to and which span made it.
//! <https://www.w3.org/TR/trace-context/>

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::fmt;

use uuid::Uuid;

/// The length of version 00, in characters.
const LENGTH: usize = 55;
/// The flag of a trace that is recorded.
const SAMPLED: u8 = 1;

/// A trace id, the id of the span that speaks, and flags. Never all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Traceparent {
    trace: u128,
    span: u64,
    flags: u8,
}

impl Traceparent {
    /// Reads the header. Later versions are read as far as version 00 goes, as the specification wants.
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

    /// The first span of a new trace.
    pub fn random() -> Self {
        Self { trace: Uuid::new_v4().as_u128(), span: random_span(), flags: SAMPLED }
    }

    /// A new span of the same trace.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span: random_span(), ..*self }
    }
}

/// Never zero: the version of a UUID is among these bits.
fn random_span() -> u64 {
    Uuid::new_v4().as_u64_pair().0
}

/// A number of exactly this many lower-case hexadecimal digits.
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

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_header_reads_back() {
        assert_eq!(Traceparent::parse(GOOD).map(|it| it.to_string()).as_deref(), Some(GOOD));
        let made = Traceparent::random();
        assert_eq!(Traceparent::parse(&made.to_string()), Some(made));
    }

    #[test]
    fn a_later_version_is_read_as_far_as_this_one_goes() {
        let later = format!("01{}-what-comes-later", &GOOD[2..]);
        assert_eq!(Traceparent::parse(&later), Traceparent::parse(GOOD));
    }

    #[test]
    fn a_child_is_another_span_of_the_same_trace() {
        let parent = Traceparent::random();
        let child = parent.child();
        assert_eq!(child.trace, parent.trace);
        assert_ne!(child.span, parent.span);
    }

    #[test]
    fn what_is_malformed_is_not_taken() {
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-more"),
            &format!("01{}more", &GOOD[2..]),
            &format!("ff{}", &GOOD[2..]),
            &GOOD.to_uppercase(),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47-36-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e473+-00f067aa0ba902b7-01",
            &"ü".repeat(55),
        ] {
            assert_eq!(Traceparent::parse(bad), None, "{bad:?}");
        }
    }
}
