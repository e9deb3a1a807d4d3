//! Pages in a browser, embedded at build time: the conversations at `/`, GraphiQL at `/graphiql` and GraphQL
//! Playground at `/playground`, or a plain page that explains how to build them.
//!
//! The pages load nothing from other hosts and their Content-Security-Policy forbids it. They work on a
//! closed network, and no foreign script can read a token.

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
    routing::{MethodRouter, get},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rust_embed::{Embed, EmbeddedFile};

use crate::operation::persisted_queries::TrustedDocuments;

// `struct WebFiles`: the embedded files that build.rs built from web/. It is empty if Node.js or npm was not
// available.
include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// A page: its embedded file and its Content-Security-Policy.
struct Page {
    file: &'static str,
    policy: &'static str,
}

const CONVERSATIONS: Page = Page { file: "index.html", policy: STRICT };
const GRAPHIQL: Page = Page { file: "graphiql.html", policy: INLINE_STYLES };
const PLAYGROUND: Page = Page { file: "playground.html", policy: EMPTY_STYLES };
const PLAIN: &str = include_str!("../../web/plain.html");

/// Documents of the page at `/`, a JSON object of hashes and documents.
const DOCUMENTS: &str = include_str!("../../web/app/trusted-documents.json");

/// Content-Security-Policy without inline scripts and without `'unsafe-eval'`. `'self'` covers this
/// host's WebSocket too.
macro_rules! policy {
    ($more_styles:literal) => {
        concat!(
            "default-src 'none'; script-src 'self'; style-src 'self'",
            $more_styles,
            "; img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; \
             form-action 'self'; frame-ancestors 'none'"
        )
    };
}

/// Policy of the page at `/`, and of assets: no inline style either.
const STRICT: &str = policy!("");
/// Policy of the plain page and of GraphiQL, whose dialogs insert a style computed from the window's size.
const INLINE_STYLES: &str = policy!(" 'unsafe-inline'");
/// Policy of Playground, whose script inserts an empty style element and then adds rules to it. The hash
/// is that of the empty string.
const EMPTY_STYLES: &str = policy!(" 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='");

/// Caching of a page, which can change with every start of the gateway.
const REVALIDATE: &str = "no-cache";
/// Caching of an asset, whose name contains the hash of its content.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// Returns the routes of the pages. `/graphiql` and `/playground` need introspection.
pub fn routes(introspection: bool) -> Router {
    let router = Router::new().route("/", page(&CONVERSATIONS)).route("/assets/{file}", get(asset));
    if !introspection {
        return router;
    }
    router.route("/graphiql", page(&GRAPHIQL)).route("/playground", page(&PLAYGROUND))
}

fn page(page: &'static Page) -> MethodRouter {
    get(move |headers: HeaderMap| async move { serve_page(page, &headers) })
}

/// Returns true if the pages were built, false if the plain page is served instead.
pub fn are_built() -> bool {
    WebFiles::get(CONVERSATIONS.file).is_some()
}

/// Returns the documents of the page at `/`, which may run beside the trusted documents of an operator.
pub fn documents() -> TrustedDocuments {
    TrustedDocuments::parse(DOCUMENTS).expect("the build has checked the list")
}

fn serve_page(page: &Page, headers: &HeaderMap) -> Response {
    match WebFiles::get(page.file) {
        Some(file) => with_security_headers(answer(headers, file, REVALIDATE), page.policy),
        None => {
            let plain = ([(CONTENT_TYPE, "text/html; charset=utf-8"), (CACHE_CONTROL, REVALIDATE)], PLAIN);
            with_security_headers(plain.into_response(), INLINE_STYLES)
        }
    }
}

async fn asset(Path(file): Path<String>, headers: HeaderMap) -> Response {
    let response = match WebFiles::get(&format!("assets/{file}")) {
        Some(file) => answer(&headers, file, IMMUTABLE),
        None => StatusCode::NOT_FOUND.into_response(),
    };
    with_security_headers(response, STRICT)
}

fn answer(headers: &HeaderMap, file: EmbeddedFile, cache: &'static str) -> Response {
    let tag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(file.metadata.sha256_hash()));
    let caching = [(ETAG, tag.clone()), (CACHE_CONTROL, cache.to_owned())];
    if headers.get_all(IF_NONE_MATCH).iter().any(|value| matches_etag(value, &tag)) {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(CONTENT_TYPE, content_type(&file))], Body::from(file.data)).into_response()
}

/// Returns true if an `If-None-Match` header contains an entity tag. The weak form matches too:
/// compressing proxies send it.
pub fn matches_etag(value: &HeaderValue, tag: &str) -> bool {
    let list = value.to_str().unwrap_or_default();
    list.split(',').map(str::trim).any(|item| item == "*" || item.trim_start_matches("W/") == tag)
}

fn content_type(file: &EmbeddedFile) -> String {
    let kind = file.metadata.mimetype();
    if kind.starts_with("text/") { format!("{kind}; charset=utf-8") } else { kind.to_owned() }
}

fn with_security_headers(mut response: Response, policy: &'static str) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use axum::http::{
        Request,
        header::{ACCEPT_ENCODING, CONTENT_ENCODING},
    };
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn fetch(path: &str, known: Option<&HeaderValue>) -> Response {
        let mut request = Request::get(path);
        if let Some(tag) = known {
            request = request.header(IF_NONE_MATCH, tag);
        }
        routes(true).oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn text(response: Response) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    const PAGES: [&str; 3] = ["/", "/graphiql", "/playground"];

    #[tokio::test]
    async fn the_pages_are_html_and_are_revalidated() {
        for path in PAGES {
            let response = fetch(path, None).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
            assert_eq!(response.headers()[CACHE_CONTROL], REVALIDATE);
            assert!(text(response).await.contains("<title>Tidings"));
        }
    }

    #[tokio::test]
    async fn the_pages_and_their_files_have_security_headers() {
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
            let expected = match path {
                "/graphiql" => "'self' 'unsafe-inline'",
                "/" | "/playground" if !are_built() => "'self' 'unsafe-inline'",
                "/playground" => "'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='",
                _ => "'self'",
            };
            assert_eq!(directives["style-src"], expected, "{path}");
        }
    }

    #[tokio::test]
    async fn every_asset_of_the_pages_is_served_and_cached_as_immutable() {
        for path in PAGES {
            let page = text(fetch(path, None).await).await;
            let files: Vec<&str> = page.split('"').filter(|part| part.starts_with("/assets/")).collect();
            assert_eq!(
                files.is_empty(),
                !are_built(),
                "{path}: a built page loads assets, the plain page none"
            );
            for file in files {
                let response = fetch(file, None).await;
                assert_eq!(response.status(), StatusCode::OK, "{file}");
                assert_eq!(response.headers()[CACHE_CONTROL], IMMUTABLE);
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
    async fn an_absent_file_is_not_found() {
        for path in [
            "/assets/absent.js",
            "/assets/..%2Findex.html",
            "/index.html",
            "/graphiql.html",
            "/playground.html",
        ] {
            assert_eq!(fetch(path, None).await.status(), StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[tokio::test]
    async fn without_introspection_the_tools_are_absent_and_the_page_stays() {
        for (path, expected) in [
            ("/", StatusCode::OK),
            ("/graphiql", StatusCode::NOT_FOUND),
            ("/playground", StatusCode::NOT_FOUND),
        ] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            assert_eq!(routes(false).oneshot(request).await.unwrap().status(), expected, "{path}");
        }
    }

    #[tokio::test]
    async fn the_script_of_the_page_has_at_most_150_kb() {
        if !are_built() {
            return;
        }
        let page = text(fetch("/", None).await).await;
        let script =
            page.split('"').find(|part| part.starts_with("/assets/") && part.ends_with(".js")).unwrap();
        let router = routes(true).layer(crate::compression());
        let request = Request::get(script).header(ACCEPT_ENCODING, "gzip").body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        let size_bytes = response.into_body().collect().await.unwrap().to_bytes().len();
        println!("script of the page at /: {size_bytes} bytes, compressed");
        assert!(size_bytes <= 150_000, "{size_bytes} bytes");
    }

    #[test]
    fn the_documents_of_the_page_are_trusted_documents() {
        assert!(documents().count() >= 20);
    }

    #[test]
    fn an_entity_tag_matches_in_a_list_and_in_its_weak_form() {
        let matches = |value| matches_etag(&HeaderValue::from_static(value), "\"a\"");
        assert!(matches("\"a\"") && matches("\"b\", W/\"a\"") && matches("*"));
        assert!(!matches("\"b\"") && !matches("a") && !matches(""));
    }

    #[test]
    fn the_plain_page_loads_nothing_and_explains_how_to_build_the_others() {
        assert!(!PLAIN.contains("src=") && !PLAIN.contains("http:") && !PLAIN.contains("https:"));
        assert!(PLAIN.contains("make web") && PLAIN.contains("/graphql") && PLAIN.contains("/playground"));
    }
}
