//! `GET /graphql/schema`: the schema's text. Mounted only where introspection is on.

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

use crate::{ide, schema};

/// The text, and the tag by which a client knows it again.
struct Printed {
    tag: String,
    text: Bytes,
}

/// `/graphql/schema`.
pub fn routes() -> Router {
    let text = schema::sdl();
    let tag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(Sha256::digest(text.as_bytes())));
    let printed = Arc::new(Printed { tag, text: text.into() });
    Router::new().route("/graphql/schema", get(print)).with_state(printed)
}

async fn print(State(printed): State<Arc<Printed>>, headers: HeaderMap) -> Response {
    // A weak tag: compressed or not, the text is the same.
    let known = [(ETAG, format!("W/{}", printed.tag)), (CACHE_CONTROL, "no-cache".to_owned())];
    if headers.get_all(IF_NONE_MATCH).iter().any(|value| ide::names(value, &printed.tag)) {
        return (StatusCode::NOT_MODIFIED, known).into_response();
    }
    let kind = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (known, kind, printed.text.clone()).into_response()
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};

    use crate::fixture::{Fixture, away};

    #[tokio::test]
    async fn the_text_is_given_where_introspection_is_on_and_once_to_who_keeps_it() {
        let open = Fixture::alone();
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
        let closed = Fixture::new(false, away);
        assert_eq!(closed.send(get().body(Body::empty()).expect("a request")).await.status.as_u16(), 404);
    }
}
