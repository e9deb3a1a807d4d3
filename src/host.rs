//! Host of a request. A request that names no host, two hosts or a malformed one is answered 400: a proxy in
//! front might have read it differently (RFC 9112, 3.2; RFC 9113, 8.3.1).

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, Version, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

const REFUSAL: &str = "a request names exactly one host\n";

/// Middleware: passes a request on if it names exactly one host, and answers any other with 400.
pub async fn require(request: Request, next: Next) -> Response {
    if names_one_host(&request) {
        return next.run(request).await;
    }
    let mut response = (StatusCode::BAD_REQUEST, REFUSAL).into_response();
    telemetry::http::set_security_headers(response.headers_mut());
    if request.version() < Version::HTTP_2 {
        // The next request of this connection might be a part of this one.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// HTTP/1.0 may name no host. HTTP/2 names it in `:authority`, in `host`, or in both alike.
fn names_one_host(request: &axum::http::Request<Body>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() || host.is_some_and(|host| !is_valid(host.as_bytes())) {
        return false;
    }
    match (request.version(), request.uri().authority(), host) {
        (Version::HTTP_2, Some(authority), Some(host)) => {
            is_valid(authority.as_str().as_bytes())
                && authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes())
        }
        (Version::HTTP_2, Some(authority), None) => is_valid(authority.as_str().as_bytes()),
        (Version::HTTP_2, None, host) => host.is_some(),
        (Version::HTTP_11, _, host) => host.is_some(),
        _ => true,
    }
}

/// Returns true for a host with or without a port: not empty, without user information, and with a port
/// from 0 to 65535 or an empty one.
fn is_valid(text: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(text) else { return false };
    let host = authority.host();
    let port = authority.as_str().strip_prefix(host);
    !host.is_empty() && port.is_some_and(|port| matches!(port, "" | ":") || authority.port_u16().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, uri: &str, hosts: &[&str]) -> axum::http::Request<Body> {
        let mut request = axum::http::Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        for valid in
            ["a", "a.example", "A.example:80", "127.0.0.1:8080", "[::1]", "[::1]:8080", "a:", "x_y", "a:0"]
        {
            assert!(is_valid(valid.as_bytes()), "{valid}");
        }
        for malformed in [
            "", ":80", "a b", "a, b", "a:b", "a:99999", "a:-1", "a:80:80", "ann@a", "ann:x@a", "a/b",
            "http://a", "a?b", "a#b", "[::1", "::1", "\u{e4}", "a\\b",
        ] {
            assert!(!is_valid(malformed.as_bytes()), "{malformed}");
        }
    }

    #[test]
    fn each_version_has_its_rule() {
        for (version, uri, hosts, is_accepted) in [
            (Version::HTTP_11, "/", &["a"][..], true),
            (Version::HTTP_11, "/", &[], false),
            (Version::HTTP_11, "/", &["a", "a"], false),
            (Version::HTTP_11, "/", &["a b"], false),
            (Version::HTTP_11, "/", &[""], false),
            (Version::HTTP_11, "http://a/", &["b"], true),
            (Version::HTTP_11, "http://a/", &[], false),
            (Version::HTTP_10, "/", &[], true),
            (Version::HTTP_10, "/", &["a", "b"], false),
            (Version::HTTP_2, "/", &[], false),
            (Version::HTTP_2, "/", &["a"], true),
            (Version::HTTP_2, "/", &["a", "a"], false),
            (Version::HTTP_2, "http://a/", &[], true),
            (Version::HTTP_2, "http://a:1/", &["A:1"], true),
            (Version::HTTP_2, "http://a/", &["b"], false),
            (Version::HTTP_2, "http://ann@a/", &[], false),
        ] {
            let request = request(version, uri, hosts);
            assert_eq!(names_one_host(&request), is_accepted, "{version:?} {uri} {hosts:?}");
        }
    }
}
