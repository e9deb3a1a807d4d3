//! The page at `/`: GraphiQL, embedded when the binary was built, or a plain page that says how to get it. Everything the
//! page needs comes from here; its Content-Security-Policy names no other host, so that it works on a closed network
//! and a script from elsewhere never sees a token. Mounted only where introspection is on.

use axum::{
    Router,
    body::Body,
    extract::Path,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rust_embed::{Embed, EmbeddedFile};

// `struct Page`: what build.rs made of web/, empty where it could not.
include!(concat!(env!("OUT_DIR"), "/page.rs"));

const INDEX: &str = "index.html";
const PLAIN: &str = include_str!("../../web/plain.html");

/// Styles may stand inline because the editor's dialogs write some; scripts may not. `'self'` covers the WebSocket of this host.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; \
    frame-ancestors 'none'";

/// The page may change with every start, so a browser asks; a file with a hash in its name never does.
const ASK: &str = "no-cache";
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// `/` and the files that it loads.
pub fn routes() -> Router {
    Router::new().route("/", get(index)).route("/assets/{file}", get(asset))
}

/// Whether `/` is GraphiQL, and not the plain page.
pub fn is_built() -> bool {
    Page::get(INDEX).is_some()
}

async fn index(headers: HeaderMap) -> Response {
    match Page::get(INDEX) {
        Some(file) => answer(&headers, file, ASK),
        None => secured(([(CONTENT_TYPE, "text/html; charset=utf-8"), (CACHE_CONTROL, ASK)], PLAIN).into_response()),
    }
}

async fn asset(Path(file): Path<String>, headers: HeaderMap) -> Response {
    match Page::get(&format!("assets/{file}")) {
        Some(file) => answer(&headers, file, FOR_EVER),
        None => secured(StatusCode::NOT_FOUND.into_response()),
    }
}

fn answer(headers: &HeaderMap, file: EmbeddedFile, cache: &'static str) -> Response {
    let tag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(file.metadata.sha256_hash()));
    let known = [(ETAG, tag.clone()), (CACHE_CONTROL, cache.to_owned())];
    if headers.get_all(IF_NONE_MATCH).iter().any(|value| names(value, &tag)) {
        return secured((StatusCode::NOT_MODIFIED, known).into_response());
    }
    secured((known, [(CONTENT_TYPE, content_type(&file))], Body::from(file.data)).into_response())
}

/// Whether an `If-None-Match` names this tag; a weak one does too, as a compressing proxy makes it.
pub fn names(value: &HeaderValue, tag: &str) -> bool {
    let list = value.to_str().unwrap_or_default();
    list.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

fn content_type(file: &EmbeddedFile) -> String {
    let kind = file.metadata.mimetype();
    if kind.starts_with("text/") { format!("{kind}; charset=utf-8") } else { kind.to_owned() }
}

fn secured(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn fetch(path: &str, known: Option<&HeaderValue>) -> Response {
        let mut request = Request::get(path);
        if let Some(tag) = known {
            request = request.header(IF_NONE_MATCH, tag);
        }
        routes().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn text(response: Response) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_page_is_html_and_is_asked_for_anew() {
        let response = fetch("/", None).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        assert_eq!(response.headers()[CACHE_CONTROL], ASK);
        assert!(text(response).await.contains("<title>Tidings"));
    }

    #[tokio::test]
    async fn the_page_forbids_every_other_host() {
        let response = fetch("/", None).await;
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
        let allowed = ["'none'", "'self'", "'unsafe-inline'", "data:"];
        for directive in policy.split("; ") {
            let (name, sources) = directive.split_once(' ').unwrap();
            assert!(sources.split(' ').all(|source| allowed.contains(&source)), "{directive}");
            assert!(name != "script-src" || sources == "'self'", "{directive}");
        }
    }

    #[tokio::test]
    async fn what_the_page_loads_is_here_and_may_be_kept_for_ever() {
        let page = text(fetch("/", None).await).await;
        let files: Vec<&str> = page.split('"').filter(|part| part.starts_with("/assets/")).collect();
        assert_eq!(files.is_empty(), Page::get(INDEX).is_none(), "a built page loads something, the plain one nothing");
        for file in files {
            let response = fetch(file, None).await;
            assert_eq!(response.status(), StatusCode::OK, "{file}");
            assert_eq!(response.headers()[CACHE_CONTROL], FOR_EVER);
            let kind = if file.ends_with(".js") { "text/javascript" } else { "text/css" };
            assert_eq!(response.headers()[CONTENT_TYPE], format!("{kind}; charset=utf-8").as_str());
            let tag = response.headers()[ETAG].clone();
            assert_eq!(fetch(file, Some(&tag)).await.status(), StatusCode::NOT_MODIFIED);
            let other = HeaderValue::from_static("\"other\"");
            assert_eq!(fetch(file, Some(&other)).await.status(), StatusCode::OK);
        }
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_not_found() {
        for path in ["/assets/absent.js", "/assets/..%2Findex.html", "/index.html"] {
            assert_eq!(fetch(path, None).await.status(), StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[test]
    fn a_tag_is_found_in_a_list_and_when_it_is_weak() {
        let names = |value| names(&HeaderValue::from_static(value), "\"a\"");
        assert!(names("\"a\"") && names("\"b\", W/\"a\"") && names("*"));
        assert!(!names("\"b\"") && !names("a") && !names(""));
    }

    #[test]
    fn the_plain_page_loads_nothing_and_says_how() {
        assert!(!PLAIN.contains("src=") && !PLAIN.contains("http:") && !PLAIN.contains("https:"));
        assert!(PLAIN.contains("make web") && PLAIN.contains("/graphql"));
    }
}
