//! The pages for people: GraphiQL at `/` and GraphQL Playground at `/playground`, embedded when the binary was built, or a
//! plain page that says how to get them. Everything they need comes from here; their Content-Security-Policy names no other
//! host, so that they work on a closed network and a script from elsewhere never sees a token. Mounted only where
//! introspection is on.

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

/// An editor: the page in the embedded folder, and the policy under which it works.
struct Editor {
    page: &'static str,
    policy: &'static str,
}

const GRAPHIQL: Editor = Editor { page: "index.html", policy: INLINE_STYLES };
const PLAYGROUND: Editor = Editor { page: "playground.html", policy: EMPTY_STYLES };
const PLAIN: &str = include_str!("../../web/plain.html");

/// Scripts may not stand inline, nor may text become one (`'unsafe-eval'`). `'self'` covers the WebSocket of this host.
macro_rules! policy {
    ($inline_styles:literal) => {
        concat!(
            "default-src 'none'; script-src 'self'; style-src 'self' ",
            $inline_styles,
            "; img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; \
             frame-ancestors 'none'"
        )
    };
}

/// GraphiQL's dialogs write a style whose text depends on the window's size, and the plain page has its own.
const INLINE_STYLES: &str = policy!("'unsafe-inline'");
/// Playground's script puts an empty style into the page and fills it rule by rule: the hash is that of nothing.
const EMPTY_STYLES: &str = policy!("'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='");

/// The page may change with every start, so a browser asks; a file with a hash in its name never does.
const ASK: &str = "no-cache";
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// `/`, `/playground` and the files that they load.
pub fn routes() -> Router {
    Router::new()
        .route("/", get(|headers: HeaderMap| async move { page(&GRAPHIQL, &headers) }))
        .route("/playground", get(|headers: HeaderMap| async move { page(&PLAYGROUND, &headers) }))
        .route("/assets/{file}", get(asset))
}

/// Whether the editors are there, and not the plain page in their place.
pub fn is_built() -> bool {
    Page::get(GRAPHIQL.page).is_some()
}

fn page(editor: &Editor, headers: &HeaderMap) -> Response {
    match Page::get(editor.page) {
        Some(file) => secured(answer(headers, file, ASK), editor.policy),
        None => {
            let plain = ([(CONTENT_TYPE, "text/html; charset=utf-8"), (CACHE_CONTROL, ASK)], PLAIN);
            secured(plain.into_response(), INLINE_STYLES)
        }
    }
}

async fn asset(Path(file): Path<String>, headers: HeaderMap) -> Response {
    let response = match Page::get(&format!("assets/{file}")) {
        Some(file) => answer(&headers, file, FOR_EVER),
        None => StatusCode::NOT_FOUND.into_response(),
    };
    secured(response, EMPTY_STYLES)
}

fn answer(headers: &HeaderMap, file: EmbeddedFile, cache: &'static str) -> Response {
    let tag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(file.metadata.sha256_hash()));
    let known = [(ETAG, tag.clone()), (CACHE_CONTROL, cache.to_owned())];
    if headers.get_all(IF_NONE_MATCH).iter().any(|value| names(value, &tag)) {
        return (StatusCode::NOT_MODIFIED, known).into_response();
    }
    (known, [(CONTENT_TYPE, content_type(&file))], Body::from(file.data)).into_response()
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

fn secured(mut response: Response, policy: &'static str) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

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

    const PAGES: [&str; 2] = ["/", "/playground"];

    #[tokio::test]
    async fn the_pages_are_html_and_are_asked_for_anew() {
        for path in PAGES {
            let response = fetch(path, None).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
            assert_eq!(response.headers()[CACHE_CONTROL], ASK);
            assert!(text(response).await.contains("<title>Tidings"));
        }
    }

    #[tokio::test]
    async fn the_pages_and_their_files_are_secured() {
        for path in PAGES.into_iter().chain(["/assets/absent.js"]) {
            let response = fetch(path, None).await;
            let headers = response.headers();
            assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
            assert_eq!(headers[REFERRER_POLICY], "no-referrer", "{path}");
            let policy = headers[CONTENT_SECURITY_POLICY].to_str().unwrap();
            let directives: HashMap<&str, &str> =
                policy.split("; ").map(|directive| directive.split_once(' ').unwrap()).collect();
            for (name, expected) in [
                ("default-src", "'none'"),
                ("script-src", "'self'"),
                ("connect-src", "'self'"),
                ("base-uri", "'none'"),
                ("frame-ancestors", "'none'"),
            ] {
                assert_eq!(directives[name], expected, "{path} {name}");
            }
            let empty = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='";
            let allowed = ["'none'", "'self'", "'unsafe-inline'", "data:", empty];
            for (name, sources) in &directives {
                assert!(
                    sources.split(' ').all(|source| allowed.contains(&source)),
                    "{path} {name} {sources}"
                );
            }
            let is_loose = directives["style-src"].contains("'unsafe-inline'");
            assert_eq!(is_loose, path == "/" || (path == "/playground" && !is_built()), "{path}");
        }
    }

    #[tokio::test]
    async fn what_the_pages_load_is_here_and_may_be_kept_for_ever() {
        for path in PAGES {
            let page = text(fetch(path, None).await).await;
            let files: Vec<&str> = page.split('"').filter(|part| part.starts_with("/assets/")).collect();
            assert_eq!(files.is_empty(), !is_built(), "a built page loads something, the plain one nothing");
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
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_not_found() {
        for path in ["/assets/absent.js", "/assets/..%2Findex.html", "/index.html", "/playground.html"] {
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
        assert!(PLAIN.contains("make web") && PLAIN.contains("/graphql") && PLAIN.contains("/playground"));
    }
}
