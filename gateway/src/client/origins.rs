//! Origins of the web pages that may call the gateway from a browser, as listed in `ALLOWED_ORIGINS`.
//!
//! A request without an `Origin` header does not come from a page of another origin and is allowed.

use std::{fmt, str::FromStr};

use axum::http::{HeaderMap, HeaderValue, header};

/// List entry that allows every page of this machine, on any port.
const LOOPBACK: &str = "loopback";

/// Allowed origins. The default allows none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    exact: Vec<String>,
    loopback: bool,
}

/// Error of a list with a malformed origin, which it holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an origin: expected scheme://host[:port], or `loopback`")]
pub struct InvalidOrigin(String);

impl Origins {
    /// Allows no web page.
    pub fn none() -> Self {
        Self::default()
    }

    /// Allows the pages of this machine, on any port.
    pub fn loopback() -> Self {
        Self { exact: Vec::new(), loopback: true }
    }

    /// Returns true if a request with these headers is allowed. One with two `Origin` headers never is.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => true,
            (Some(origin), None) => self.allow(origin),
            (Some(_), Some(_)) => false,
        }
    }

    /// Returns true if pages of this origin are allowed.
    pub fn allow(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        self.exact.iter().any(|allowed| allowed == origin) || (self.loopback && is_loopback(origin))
    }
}

impl FromStr for Origins {
    type Err = InvalidOrigin;

    /// Parses a list separated by commas.
    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let mut origins = Self::none();
        for origin in text.split(',').map(str::trim).filter(|origin| !origin.is_empty()) {
            if origin == LOOPBACK {
                origins.loopback = true;
            } else if is_origin(origin) {
                origins.exact.push(origin.to_owned());
            } else {
                return Err(InvalidOrigin(origin.to_owned()));
            }
        }
        Ok(origins)
    }
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loopback = self.loopback.then_some(LOOPBACK);
        let all: Vec<_> = loopback.into_iter().chain(self.exact.iter().map(String::as_str)).collect();
        f.write_str(&all.join(","))
    }
}

/// Returns true for an origin as browsers send it: a scheme, a host in lower case and an optional port, with
/// no path. Any other form would never match, so a list that contains one is rejected at startup.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let is_allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.:[]".contains(&byte);
    !scheme.is_empty() && !host.is_empty() && scheme.bytes().all(is_allowed) && host.bytes().all(is_allowed)
}

fn is_loopback(origin: &str) -> bool {
    let Some(rest) = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) else {
        return false;
    };
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|host| {
        let port = rest.strip_prefix(host);
        port.is_some_and(|port| {
            port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(origins: &[&'static str]) -> HeaderMap {
        origins.iter().map(|origin| (header::ORIGIN, HeaderValue::from_static(origin))).collect()
    }

    #[test]
    fn only_listed_pages_and_requests_without_an_origin_are_allowed() {
        let origins: Origins = "https://app.example, http://10.0.0.1:8080".parse().expect("valid origins");
        for good in [&["https://app.example"][..], &["http://10.0.0.1:8080"], &[]] {
            assert!(origins.admit(&headers(good)), "{good:?}");
        }
        for bad in [
            &["https://app.example.evil"][..],
            &["https://app.example:443"],
            &["http://app.example"],
            &["https://APP.example"],
            &["null"],
            &[""],
            &["http://localhost"],
            &["https://app.example", "https://app.example"],
        ] {
            assert!(!origins.admit(&headers(bad)), "{bad:?}");
        }
    }

    #[test]
    fn loopback_allows_any_port_and_no_other_host() {
        let origins = Origins::loopback();
        for good in ["http://localhost", "http://localhost:3000", "https://127.0.0.1:8443", "http://[::1]:80"]
        {
            assert!(origins.allow(&HeaderValue::from_static(good)), "{good}");
        }
        for bad in [
            "http://localhost.evil",
            "http://localhost:",
            "http://localhost:99999",
            "http://127.0.0.1.evil",
            "file://",
        ] {
            assert!(!origins.allow(&HeaderValue::from_static(bad)), "{bad}");
        }
        assert!(!Origins::none().allow(&HeaderValue::from_static("http://localhost")));
    }

    #[test]
    fn a_displayed_list_parses_to_the_same_list() {
        for text in ["", "loopback", "https://a.example", "loopback,https://a.example,http://b.example:81"] {
            assert_eq!(text.parse::<Origins>().expect(text).to_string(), text);
        }
        for bad in [
            "*",
            "example.com",
            "https://a.example/",
            "https://",
            "https://a.example/path",
            "HTTPS://A.example",
        ] {
            assert_eq!(bad.parse::<Origins>(), Err(InvalidOrigin(bad.to_owned())));
        }
    }
}
