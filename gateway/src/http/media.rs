//! Media types: which one a request is in, and which one its answer is to be in.

#![warn(clippy::indexing_slicing, clippy::panic)]

use axum::http::{HeaderMap, HeaderValue, header};

use super::answer::{Answer, refusal};

/// The version of Apollo's protocol for subscriptions over HTTP.
const SUBSCRIPTION_SPEC: &str = "1.0";

/// What an answer is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// `application/json`: 200 for everything that is a GraphQL request at all.
    Json,
    /// `application/graphql-response+json`: the status says whether there is data.
    GraphqlResponse,
}

impl Media {
    /// The `Content-Type` of an answer.
    pub fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json; charset=utf-8",
            Self::GraphqlResponse => "application/graphql-response+json; charset=utf-8",
        })
    }
}

/// How a stream of answers is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `text/event-stream`: server-sent events.
    Events,
    /// `multipart/mixed;subscriptionSpec=1.0`: parts, as Apollo's clients read them.
    Parts,
}

/// What a client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// A single answer of this kind; subscriptions as a stream, where it names one.
    Single(Media, Option<Format>),
    /// Streams alone.
    Stream(Format),
}

impl Accepted {
    /// What the `Accept` headers like best; JSON where they do not care. A stream is given only to who names its kind.
    ///
    /// # Errors
    /// 406 where nothing of it is here.
    pub fn of(headers: &HeaderMap) -> Result<Self, Answer> {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let ranges: Vec<Range> = values.flat_map(|value| value.split(',')).filter_map(Range::parse).collect();
        let stream = stream(&ranges);
        if ranges.is_empty() {
            return Ok(Self::Single(Media::Json, None));
        }
        let (json, graphql) = (quality(&ranges, "json"), quality(&ranges, "graphql-response+json"));
        match (json, graphql, stream) {
            (0, 0, None) => Err(refusal::not_acceptable()),
            (0, 0, Some(format)) => Ok(Self::Stream(format)),
            // Named alike, the newer one: clients send both in that hope.
            (json, graphql, stream) if graphql > json || (graphql == json && names_graphql(&ranges)) => {
                Ok(Self::Single(Media::GraphqlResponse, stream))
            }
            (_, _, stream) => Ok(Self::Single(Media::Json, stream)),
        }
    }

    /// What a refusal is written as, for this client.
    pub fn media(self) -> Media {
        match self {
            Self::Single(media, _) => media,
            Self::Stream(_) => Media::GraphqlResponse,
        }
    }

    /// How this client takes subscriptions.
    pub fn format(self) -> Option<Format> {
        match self {
            Self::Single(_, format) => format,
            Self::Stream(format) => Some(format),
        }
    }
}

/// One range of an `Accept` header, its quality in thousandths.
#[derive(Debug)]
struct Range {
    kind: String,
    subtype: String,
    quality: u32,
    /// Whether it asks for Apollo's parts.
    parts: bool,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let mut sections = text.split(';');
        let (kind, subtype) = sections.next()?.trim().split_once('/')?;
        let (mut quality, mut parts) = (1.0, false);
        for (name, value) in sections.filter_map(|section| section.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => quality = value.parse::<f32>().unwrap_or(0.0),
                "subscriptionspec" => parts = value == SUBSCRIPTION_SPEC,
                _ => {}
            }
        }
        let quality = (quality.clamp(0.0, 1.0) * 1_000.0) as u32;
        Some(Self { kind: kind.to_ascii_lowercase(), subtype: subtype.to_ascii_lowercase(), quality, parts })
    }

    /// How exactly this range names a subtype of `application`, if it does.
    fn exactness(&self, subtype: &str) -> Option<u32> {
        match (self.kind.as_str(), self.subtype.as_str()) {
            ("application", own) if own == subtype => Some(2),
            ("application", "*") => Some(1),
            ("*", "*") => Some(0),
            _ => None,
        }
    }

    /// Which stream this range names, if it does.
    fn format(&self) -> Option<Format> {
        match (self.kind.as_str(), self.subtype.as_str()) {
            ("text", "event-stream") => Some(Format::Events),
            ("multipart", "mixed") if self.parts => Some(Format::Parts),
            _ => None,
        }
    }
}

/// The quality of `application/{subtype}`: that of the range that names it most exactly.
fn quality(ranges: &[Range], subtype: &str) -> u32 {
    let named = ranges.iter().filter_map(|range| Some((range.exactness(subtype)?, range.quality)));
    named.max().map_or(0, |(_, quality)| quality)
}

/// The stream of the best quality; the first among equals.
fn stream(ranges: &[Range]) -> Option<Format> {
    let named = ranges.iter().filter(|range| range.quality > 0);
    let named = named.filter_map(|range| Some((range.quality, range.format()?)));
    named.rev().max_by_key(|(quality, _)| *quality).map(|(_, format)| format)
}

fn names_graphql(ranges: &[Range]) -> bool {
    ranges.iter().any(|range| range.exactness("graphql-response+json") == Some(2))
}

/// Whether a body is JSON in UTF-8. What a browser sends without asking first (a form, plain text) is not.
pub fn is_json(headers: &HeaderMap) -> bool {
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
        HeaderMap::from_iter([(name, value.parse().expect("a header"))])
    }

    #[test]
    fn the_answer_is_what_the_client_likes_best() {
        for (accept, expected) in [
            ("application/json", Some(Media::Json)),
            ("application/graphql-response+json", Some(Media::GraphqlResponse)),
            ("Application/GraphQL-Response+JSON; charset=utf-8", Some(Media::GraphqlResponse)),
            ("*/*", Some(Media::Json)),
            ("application/*", Some(Media::Json)),
            ("text/html, application/xhtml+xml, */*;q=0.8", Some(Media::Json)),
            ("application/graphql-response+json, application/json", Some(Media::GraphqlResponse)),
            ("application/json, application/graphql-response+json;q=0.9", Some(Media::Json)),
            ("application/graphql-response+json;q=0.5, application/json;q=0.4", Some(Media::GraphqlResponse)),
            ("application/graphql-response+json;q=0, */*", Some(Media::Json)),
            ("application/graphql-response+json, */*;q=0.1", Some(Media::GraphqlResponse)),
            ("text/html", None),
            ("application/json;q=0", None),
            ("multipart/mixed", None),
            ("text/*", None),
            ("text/event-stream;q=0", None),
            ("nonsense", Some(Media::Json)),
            ("", Some(Media::Json)),
        ] {
            let expected = expected.map(|media| Accepted::Single(media, None));
            assert_eq!(accepted(accept), expected, "{accept}");
        }
        assert_eq!(Accepted::of(&HeaderMap::new()).ok(), Some(Accepted::Single(Media::Json, None)));
    }

    fn accepted(accept: &str) -> Option<Accepted> {
        Accepted::of(&with(header::ACCEPT, accept)).ok()
    }

    #[test]
    fn a_stream_is_for_who_names_it() {
        use Accepted::{Single, Stream};
        for (accept, expected) in [
            ("text/event-stream", Stream(Format::Events)),
            ("Text/Event-Stream; charset=utf-8", Stream(Format::Events)),
            ("text/event-stream, application/json;q=0", Stream(Format::Events)),
            ("multipart/mixed;subscriptionSpec=1.0", Stream(Format::Parts)),
            ("multipart/mixed;subscriptionSpec=\"1.0\"", Stream(Format::Parts)),
            (
                "multipart/mixed;boundary=graphql;subscriptionSpec=1.0, application/json",
                Single(Media::Json, Some(Format::Parts)),
            ),
            (
                "multipart/mixed;boundary=\"graphql\";subscriptionSpec=1.0,application/graphql-response+json,application/json;q=0.9",
                Single(Media::GraphqlResponse, Some(Format::Parts)),
            ),
            ("multipart/mixed;deferSpec=20220824, application/json", Single(Media::Json, None)),
            ("multipart/mixed;subscriptionSpec=2.0, */*", Single(Media::Json, None)),
            (
                "application/json, text/event-stream, multipart/mixed",
                Single(Media::Json, Some(Format::Events)),
            ),
            ("text/event-stream;q=0.5, multipart/mixed;subscriptionSpec=1.0", Stream(Format::Parts)),
            ("multipart/mixed;subscriptionSpec=1.0, text/event-stream", Stream(Format::Parts)),
            ("text/event-stream, */*", Single(Media::Json, Some(Format::Events))),
        ] {
            assert_eq!(accepted(accept), Some(expected), "{accept}");
        }
    }

    #[test]
    fn only_json_in_utf_8_is_read() {
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
}
