//! `GET /graphql/schema`: the schema in the schema definition language. Mounted only if introspection is on.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{
        HeaderMap, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::{pages, schema};

/// The SDL and its entity tag.
struct Sdl {
    etag: String,
    text: Bytes,
}

/// Returns the route `/graphql/schema`.
pub fn routes() -> Router {
    let text = schema::sdl();
    let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(Sha256::digest(text.as_bytes())));
    let sdl = Arc::new(Sdl { etag, text: text.into() });
    Router::new().route("/graphql/schema", get(serve)).with_state(sdl)
}

async fn serve(State(sdl): State<Arc<Sdl>>, headers: HeaderMap) -> Response {
    // A weak tag, because the compressed and the plain response have the same content.
    let caching = [(ETAG, format!("W/{}", sdl.etag)), (CACHE_CONTROL, "no-cache".to_owned())];
    if headers.get_all(IF_NONE_MATCH).iter().any(|value| pages::matches_etag(value, &sdl.etag)) {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    let content = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (caching, content, sdl.text.clone()).into_response()
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};

    use crate::testing::{TestGateway, unavailable};

    #[tokio::test]
    async fn the_sdl_is_served_with_introspection_on_and_is_cacheable() {
        let open = TestGateway::alone();
        let get = || Request::get("/graphql/schema");
        let answer = open.send(get().body(Body::empty()).expect("a request")).await;
        assert_eq!(answer.status.as_u16(), 200);
        assert_eq!(answer.text, crate::schema::sdl());
        let tag = answer.headers["etag"].clone();
        let again =
            open.send(get().header("if-none-match", &tag).body(Body::empty()).expect("a request")).await;
        assert_eq!((again.status.as_u16(), again.text.as_str()), (304, ""));
        let other =
            open.send(get().header("if-none-match", "\"x\"").body(Body::empty()).expect("a request")).await;
        assert_eq!(other.status.as_u16(), 200);
        let closed = TestGateway::new(false, unavailable);
        assert_eq!(closed.send(get().body(Body::empty()).expect("a request")).await.status.as_u16(), 404);
    }
}
