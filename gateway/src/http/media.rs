//! Content negotiation: the media type of the response from `Accept`, and the format of the body from
//! `Content-Type`.
//!
//! A client receives a stream only if it names the stream's media type. A wildcard selects JSON.

#![warn(clippy::indexing_slicing, clippy::panic)]

use axum::http::{HeaderMap, HeaderValue, header};

/// Version of Apollo's multipart protocol for subscriptions over HTTP.
const SUBSCRIPTION_SPEC: &str = "1.0";
/// Headers of a form. A page sends one of them to another origin only after a preflight request.
const PREFLIGHT_HEADERS: [&str; 2] = ["graphql-require-preflight", "apollo-require-preflight"];

/// Media type of a single response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    /// `application/json`: status 200 also for errors in the document.
    Json,
    /// `application/graphql-response+json`: status 200 only if the response has data.
    GraphqlResponse,
}

impl MediaType {
    /// Returns the `Content-Type` of the response.
    pub fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json; charset=utf-8",
            Self::GraphqlResponse => "application/graphql-response+json; charset=utf-8",
        })
    }
}

/// Format of a stream of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFormat {
    /// `text/event-stream`: server-sent events.
    Events,
    /// `multipart/mixed;subscriptionSpec=1.0`: one part per result, the protocol of Apollo's clients.
    Multipart,
}

/// Response formats that a client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// Single responses of this type, and subscriptions as a stream if the client names a format.
    Single(MediaType, Option<StreamFormat>),
    /// Only streams.
    Stream(StreamFormat),
}

/// Error: the gateway offers none of the media types that the client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAcceptable;

impl Accepted {
    /// Selects the formats with the highest quality in the `Accept` headers. JSON without a preference.
    ///
    /// # Errors
    /// [`NotAcceptable`] if the headers allow neither JSON nor a stream.
    pub fn negotiate(headers: &HeaderMap) -> Result<Self, NotAcceptable> {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let ranges: Vec<Range> = values.flat_map(|value| value.split(',')).filter_map(Range::parse).collect();
        let stream = stream(&ranges);
        if ranges.is_empty() {
            return Ok(Self::Single(MediaType::Json, None));
        }
        let json = quality(&ranges, "json");
        let graphql = quality(&ranges, "graphql-response+json");
        match (json, graphql, stream) {
            (0, 0, None) => Err(NotAcceptable),
            (0, 0, Some(format)) => Ok(Self::Stream(format)),
            // At equal quality the newer type wins: a client that names it understands its statuses.
            (json, graphql, stream) if graphql > json || (graphql == json && names_graphql(&ranges)) => {
                Ok(Self::Single(MediaType::GraphqlResponse, stream))
            }
            (_, _, stream) => Ok(Self::Single(MediaType::Json, stream)),
        }
    }

    /// Returns the media type of single responses and of rejections.
    pub fn media(self) -> MediaType {
        match self {
            Self::Single(media, _) => media,
            Self::Stream(_) => MediaType::GraphqlResponse,
        }
    }

    /// Returns the format of subscriptions. `None` if the client accepts no stream.
    pub fn format(self) -> Option<StreamFormat> {
        match self {
            Self::Single(_, format) => format,
            Self::Stream(format) => Some(format),
        }
    }
}

/// Media range of an `Accept` header.
#[derive(Debug)]
struct Range {
    kind: String,
    subtype: String,
    /// Quality in thousandths.
    quality: u32,
    /// Has the parameter `subscriptionSpec` of Apollo's multipart protocol, in the supported version.
    subscription_spec: bool,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let mut sections = text.split(';');
        let (kind, subtype) = sections.next()?.trim().split_once('/')?;
        let mut quality = 1.0;
        let mut subscription_spec = false;
        for (name, value) in sections.filter_map(|section| section.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => quality = value.parse::<f32>().unwrap_or(0.0),
                "subscriptionspec" => subscription_spec = value == SUBSCRIPTION_SPEC,
                _ => {}
            }
        }
        let quality = (quality.clamp(0.0, 1.0) * 1_000.0) as u32;
        let kind = kind.to_ascii_lowercase();
        let subtype = subtype.to_ascii_lowercase();
        Some(Self { kind, subtype, quality, subscription_spec })
    }

    /// Returns the specificity for `application/{subtype}`, 2 for an exact match. `None` without a match.
    fn specificity(&self, subtype: &str) -> Option<u32> {
        match (self.kind.as_str(), self.subtype.as_str()) {
            ("application", named) if named == subtype => Some(2),
            ("application", "*") => Some(1),
            ("*", "*") => Some(0),
            _ => None,
        }
    }

    /// Returns the stream format that this range names. A wildcard names none.
    fn format(&self) -> Option<StreamFormat> {
        match (self.kind.as_str(), self.subtype.as_str()) {
            ("text", "event-stream") => Some(StreamFormat::Events),
            ("multipart", "mixed") if self.subscription_spec => Some(StreamFormat::Multipart),
            _ => None,
        }
    }
}

/// Returns the quality of `application/{subtype}`, from the most specific range that matches it (RFC 9110).
fn quality(ranges: &[Range], subtype: &str) -> u32 {
    let matching = ranges.iter().filter_map(|range| Some((range.specificity(subtype)?, range.quality)));
    matching.max().map_or(0, |(_, quality)| quality)
}

/// Returns the stream format of the highest quality, the first one at equal quality.
fn stream(ranges: &[Range]) -> Option<StreamFormat> {
    let named = ranges.iter().filter(|range| range.quality > 0);
    let named = named.filter_map(|range| Some((range.quality, range.format()?)));
    named.rev().max_by_key(|(quality, _)| *quality).map(|(_, format)| format)
}

fn names_graphql(ranges: &[Range]) -> bool {
    ranges.iter().any(|range| range.specificity("graphql-response+json") == Some(2))
}

/// Format of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFormat {
    /// JSON in UTF-8.
    Json,
    /// A multipart form with a header that requires a preflight request.
    Form,
}

impl BodyFormat {
    /// Returns the format of the body. `None` for any other type, and for a request that a browser sends to
    /// another origin without a preflight request, such as plain text and forms without one of
    /// [`PREFLIGHT_HEADERS`].
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let requires_preflight = |name: &&str| headers.get(*name).is_some_and(|value| !value.is_empty());
        if is_json(headers) {
            Some(Self::Json)
        } else if is_form(headers) && PREFLIGHT_HEADERS.iter().any(requires_preflight) {
            Some(Self::Form)
        } else {
            None
        }
    }
}

/// Returns true if the body is a multipart form.
fn is_form(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next()).unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("multipart/form-data")
}

/// Returns true if the body is JSON in UTF-8.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let mut parts = value.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    essence.eq_ignore_ascii_case("application/json")
        && parts.filter_map(|part| part.split_once('=')).all(|(name, value)| {
            !name.trim().eq_ignore_ascii_case("charset")
                || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
                || value.trim().trim_matches('"').eq_ignore_ascii_case("utf8")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().expect("header value"))])
    }

    #[test]
    fn the_accepted_type_of_the_highest_quality_is_selected() {
        for (accept, expected) in [
            ("application/json", Some(MediaType::Json)),
            ("application/graphql-response+json", Some(MediaType::GraphqlResponse)),
            ("Application/GraphQL-Response+JSON; charset=utf-8", Some(MediaType::GraphqlResponse)),
            ("*/*", Some(MediaType::Json)),
            ("application/*", Some(MediaType::Json)),
            ("text/html, application/xhtml+xml, */*;q=0.8", Some(MediaType::Json)),
            ("application/graphql-response+json, application/json", Some(MediaType::GraphqlResponse)),
            ("application/json, application/graphql-response+json;q=0.9", Some(MediaType::Json)),
            (
                "application/graphql-response+json;q=0.5, application/json;q=0.4",
                Some(MediaType::GraphqlResponse),
            ),
            ("application/graphql-response+json;q=0, */*", Some(MediaType::Json)),
            ("application/graphql-response+json, */*;q=0.1", Some(MediaType::GraphqlResponse)),
            ("text/html", None),
            ("application/json;q=0", None),
            ("multipart/mixed", None),
            ("text/*", None),
            ("text/event-stream;q=0", None),
            ("nonsense", Some(MediaType::Json)),
            ("", Some(MediaType::Json)),
        ] {
            let expected = expected.map(|media| Accepted::Single(media, None));
            assert_eq!(accepted(accept), expected, "{accept}");
        }
        assert_eq!(
            Accepted::negotiate(&HeaderMap::new()).ok(),
            Some(Accepted::Single(MediaType::Json, None))
        );
    }

    fn accepted(accept: &str) -> Option<Accepted> {
        Accepted::negotiate(&with(header::ACCEPT, accept)).ok()
    }

    #[test]
    fn only_a_client_that_names_a_stream_format_receives_streams() {
        use Accepted::{Single, Stream};
        for (accept, expected) in [
            ("text/event-stream", Stream(StreamFormat::Events)),
            ("Text/Event-Stream; charset=utf-8", Stream(StreamFormat::Events)),
            ("text/event-stream, application/json;q=0", Stream(StreamFormat::Events)),
            ("multipart/mixed;subscriptionSpec=1.0", Stream(StreamFormat::Multipart)),
            ("multipart/mixed;subscriptionSpec=\"1.0\"", Stream(StreamFormat::Multipart)),
            (
                "multipart/mixed;boundary=graphql;subscriptionSpec=1.0, application/json",
                Single(MediaType::Json, Some(StreamFormat::Multipart)),
            ),
            (
                "multipart/mixed;boundary=\"graphql\";subscriptionSpec=1.0,\
                    application/graphql-response+json,application/json;q=0.9",
                Single(MediaType::GraphqlResponse, Some(StreamFormat::Multipart)),
            ),
            ("multipart/mixed;deferSpec=20220824, application/json", Single(MediaType::Json, None)),
            ("multipart/mixed;subscriptionSpec=2.0, */*", Single(MediaType::Json, None)),
            (
                "application/json, text/event-stream, multipart/mixed",
                Single(MediaType::Json, Some(StreamFormat::Events)),
            ),
            (
                "text/event-stream;q=0.5, multipart/mixed;subscriptionSpec=1.0",
                Stream(StreamFormat::Multipart),
            ),
            ("multipart/mixed;subscriptionSpec=1.0, text/event-stream", Stream(StreamFormat::Multipart)),
            ("text/event-stream, */*", Single(MediaType::Json, Some(StreamFormat::Events))),
        ] {
            assert_eq!(accepted(accept), Some(expected), "{accept}");
        }
    }

    #[test]
    fn only_json_in_utf_8_is_accepted() {
        for good in
            ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=\"UTF-8\""]
        {
            assert!(is_json(&with(header::CONTENT_TYPE, good)), "{good}");
        }
        for bad in [
            "text/plain",
            "text/plain; a=application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/json; charset=latin1",
            "application/jsonx",
            "application/graphql",
            "",
        ] {
            assert!(!is_json(&with(header::CONTENT_TYPE, bad)), "{bad}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }

    #[test]
    fn a_form_is_accepted_only_with_a_header_that_requires_a_preflight() {
        let format = |kind: &str, name: &'static str, value: &str| {
            let mut headers = with(header::CONTENT_TYPE, kind);
            headers.insert(name, value.parse().expect("header value"));
            BodyFormat::of(&headers)
        };
        let form = "multipart/form-data; boundary=x";
        for name in PREFLIGHT_HEADERS {
            assert_eq!(format(form, name, "1"), Some(BodyFormat::Form), "{name}");
            assert_eq!(format("Multipart/Form-Data", name, "1"), Some(BodyFormat::Form), "{name}");
            assert_eq!(format(form, name, ""), None, "{name}");
            assert_eq!(format("application/json", name, ""), Some(BodyFormat::Json), "{name}");
            for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/mixed", ""] {
                assert_eq!(format(kind, name, "1"), None, "{name} {kind}");
            }
        }
        assert_eq!(format(form, "x-other", "1"), None);
    }
}
