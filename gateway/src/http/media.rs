//! Media types: which one a request is in, and which one its answer is to be in.

#![warn(clippy::indexing_slicing, clippy::panic)]

use axum::http::{HeaderMap, HeaderValue, header};

use super::answer::{Answer, refusal};

/// What an answer is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// `application/json`: 200 for everything that is a GraphQL request at all.
    Json,
    /// `application/graphql-response+json`: the status says whether there is data.
    GraphqlResponse,
}

impl Media {
    /// What the `Accept` header likes best; JSON where it does not care.
    ///
    /// # Errors
    /// 406 where it takes neither.
    pub fn accepted(headers: &HeaderMap) -> Result<Self, Answer> {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let ranges: Vec<Range> = values.flat_map(|value| value.split(',')).filter_map(Range::parse).collect();
        if ranges.is_empty() {
            return Ok(Self::Json);
        }
        let (json, graphql) = (quality(&ranges, "json"), quality(&ranges, "graphql-response+json"));
        match (json, graphql) {
            (0, 0) => Err(refusal::not_acceptable()),
            // Named alike, the newer one: clients send both in that hope.
            (json, graphql) if graphql > json || (graphql == json && names_graphql(&ranges)) => {
                Ok(Self::GraphqlResponse)
            }
            _ => Ok(Self::Json),
        }
    }

    /// The `Content-Type` of an answer.
    pub fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json; charset=utf-8",
            Self::GraphqlResponse => "application/graphql-response+json; charset=utf-8",
        })
    }
}

/// One range of an `Accept` header, its quality in thousandths.
#[derive(Debug)]
struct Range {
    kind: String,
    subtype: String,
    quality: u32,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';');
        let (kind, subtype) = parts.next()?.trim().split_once('/')?;
        let quality = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>().unwrap_or(0.0))
        });
        let quality = (quality.unwrap_or(1.0).clamp(0.0, 1.0) * 1_000.0) as u32;
        Some(Self { kind: kind.to_ascii_lowercase(), subtype: subtype.to_ascii_lowercase(), quality })
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
}

/// The quality of `application/{subtype}`: that of the range that names it most exactly.
fn quality(ranges: &[Range], subtype: &str) -> u32 {
    let named = ranges.iter().filter_map(|range| Some((range.exactness(subtype)?, range.quality)));
    named.max().map_or(0, |(_, quality)| quality)
}

fn names_graphql(ranges: &[Range]) -> bool {
    ranges.iter().any(|range| range.exactness("graphql-response+json") == Some(2))
}

/// Whether a body is JSON in UTF-8. What a browser sends without asking first (a form, plain text) is not.
pub fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
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
            ("text/event-stream", None),
            ("nonsense", Some(Media::Json)),
            ("", Some(Media::Json)),
        ] {
            assert_eq!(Media::accepted(&with(header::ACCEPT, accept)).ok(), expected, "{accept}");
        }
        assert_eq!(Media::accepted(&HeaderMap::new()).ok(), Some(Media::Json));
    }

    #[test]
    fn only_json_in_utf_8_is_read() {
        for good in ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=\"UTF-8\""] {
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
