//! Client layer: records metrics per call, enforces the deadline on this side too, and maps transport
//! failures to UNAVAILABLE. The wrapped service stays `Clone + Send + Sync` if the peer is.

use std::{
    error::Error,
    task::{Context, Poll},
};

use axum::http::{HeaderValue, Request, Response};
use futures_util::{FutureExt, future::BoxFuture};
use tonic::{Code, Status, TimeoutExpired};
use tower::ServiceExt;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    call_recorder::{CallRecorder, Side},
    code,
};
use crate::{
    Traceparent, call,
    trace::{self, Kind, Span},
};

type BoxError = Box<dyn Error + Send + Sync>;

/// Creates the layer for calls to the peer with this name. The name is the metrics label `peer`.
pub fn client_layer(peer: &'static str) -> ClientLayer {
    ClientLayer { peer }
}

/// Layer created by [`client_layer`].
#[derive(Clone, Copy, Debug)]
pub struct ClientLayer {
    peer: &'static str,
}

impl<S> Layer<S> for ClientLayer {
    type Service = Client<S>;

    fn layer(&self, inner: S) -> Client<S> {
        Client { peer: self.peer, inner }
    }
}

/// gRPC client with metrics and a deadline per call.
#[derive(Clone, Debug)]
pub struct Client<S> {
    peer: &'static str,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Client<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Send + 'static,
    R: Default + Send,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<R>, S::Error>>;

    /// Returns `Ready` at all times. If the peer is not ready, the call itself waits, and the peer's failure
    /// becomes the status of that call.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let span = trace::is_exported().then(|| start_span(&mut request));
        let recorder = CallRecorder::start(Side::Client { peer: self.peer }, request.uri().path(), span);
        let timeout = call::time_left(request.headers());
        let answer = self.inner.clone().oneshot(request);
        async move {
            let answer = match timeout {
                None => answer.await,
                Some(timeout) => match tokio::time::timeout(timeout, answer).await {
                    Ok(answer) => answer,
                    Err(_) => Ok(deadline_exceeded().into_http()),
                },
            };
            let answer = answer.unwrap_or_else(|error| transport_status(error.into()).into_http());
            recorder.finish(code::of(answer.headers()));
            Ok(answer)
        }
        .boxed()
    }
}

/// Starts the span of a call and makes it the parent of what the peer does.
fn start_span<B>(request: &mut Request<B>) -> Span {
    let header = request.headers().get(&call::TRACEPARENT).and_then(|value| value.to_str().ok());
    let parent = header.and_then(Traceparent::parse);
    let span = Span::start(Kind::Client, || request.uri().path().trim_start_matches('/').to_owned(), parent);
    if let Ok(value) = HeaderValue::try_from(span.traceparent().to_string()) {
        request.headers_mut().insert(call::TRACEPARENT, value);
    }
    span
}

fn deadline_exceeded() -> Status {
    Status::deadline_exceeded("the deadline of the call has passed")
}

/// Maps a transport error to the status that the caller receives. A status sent by the peer is a
/// response, not a transport error.
fn transport_status(error: BoxError) -> Status {
    let mut source: Option<&(dyn Error + 'static)> = Some(error.as_ref());
    while let Some(current) = source {
        if current.is::<TimeoutExpired>() {
            return deadline_exceeded();
        }
        source = current.source();
    }
    let status = Status::from_error(error);
    match status.code() {
        // tonic reports a broken connection under these codes. None of them is the caller's or this
        // process's fault.
        Code::Unknown | Code::Cancelled | Code::Internal => {
            tracing::debug!(error = %status, "peer unreachable");
            Status::unavailable("the service is unavailable")
        }
        _ => status,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use testkit::fake_request;
    use tonic::{
        body::Body,
        transport::{Channel, Endpoint, server::TcpIncoming},
    };
    use tower::util::BoxCloneSyncService;

    use super::*;
    use crate::{
        grpc::{fake::fake, server_layer},
        recorder,
    };

    type Peer = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

    fn local(peer: &'static str) -> Peer {
        let server = server_layer("fake").layer(fake()).map_err(|never| -> BoxError { match never {} });
        Peer::new(client_layer(peer).layer(Peer::new(server)))
    }

    fn remote(peer: &'static str, channel: Channel) -> Peer {
        Peer::new(client_layer(peer).layer(channel).map_err(Into::into))
    }

    async fn code_of(peer: &Peer, method: &str, headers: &[(&'static str, &str)]) -> Code {
        let response = peer.clone().oneshot(fake_request(method, headers)).await.expect("a response");
        code::of(response.headers())
    }

    /// Serves the fake through tonic's transport on a free port until the sender is dropped.
    async fn serve(service: &'static str) -> (Channel, tokio::sync::oneshot::Sender<()>) {
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let address = incoming.local_addr().expect("an address");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server =
            tonic::transport::Server::builder().layer(server_layer(service)).add_routes(fake().routes());
        tokio::spawn(server.serve_with_incoming_shutdown(incoming, stopped.map(|_| ())));
        let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
        (channel, stop)
    }

    #[tokio::test]
    async fn a_local_and_a_remote_peer_behave_the_same() {
        recorder::install();
        let (channel, _stop) = serve("transport").await;
        for peer in [local("same_local"), remote("same_remote", channel)] {
            assert_eq!(code_of(&peer, "Call", &[("x-request-id", "id")]).await, Code::Ok);
            assert_eq!(code_of(&peer, "Absent", &[]).await, Code::NotFound);
            assert_eq!(code_of(&peer, "Panic", &[]).await, Code::Internal);
            assert_eq!(code_of(&peer, "Hang", &[("grpc-timeout", "50m")]).await, Code::DeadlineExceeded);
        }
        let metrics = recorder::install().render();
        for peer in ["same_local", "same_remote"] {
            for (method, code) in [("Call", "OK"), ("Absent", "NOT_FOUND"), ("Hang", "DEADLINE_EXCEEDED")] {
                let line =
                    format!(r#"grpc_client_calls_total{{peer="{peer}",method="{method}",code="{code}"}} 1"#);
                assert!(metrics.contains(&line), "{line} in {metrics}");
            }
            assert!(
                metrics
                    .contains(&format!(r#"grpc_client_call_seconds_count{{peer="{peer}",method="Call"}} 1"#))
            );
        }
    }

    #[tokio::test]
    async fn the_server_answers_before_the_timeout_of_tonic() {
        recorder::install();
        let (channel, _stop) = serve("in_time").await;
        let peer = remote("in_time", channel);
        for _ in 0..20 {
            assert_eq!(code_of(&peer, "Hang", &[("grpc-timeout", "40m")]).await, Code::DeadlineExceeded);
        }
        // On a loaded machine the client's timer may fire first, but not in all 20 calls.
        let line = r#"grpc_server_calls_total{service="in_time",method="Hang",code="DEADLINE_EXCEEDED"} "#;
        let metrics = recorder::install().render();
        assert!(metrics.contains(line), "{metrics}");
    }

    #[tokio::test]
    async fn a_connection_closed_during_a_call_is_unavailable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let closing = async {
            loop {
                drop(listener.accept().await);
            }
        };
        let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
        let peer = remote("cut", channel);
        let code = tokio::select! {
            code = code_of(&peer, "Call", &[]) => code,
            () = closing => unreachable!("the loop does not end"),
        };
        assert_eq!(code, Code::Unavailable);
    }

    #[test]
    fn a_transport_failure_is_not_reported_as_internal_or_cancelled() {
        for (error, code) in [
            (BoxError::from("a transport error"), Code::Unavailable),
            (Status::cancelled("a stream was reset").into(), Code::Unavailable),
            (Status::internal("a broken frame").into(), Code::Unavailable),
            (TimeoutExpired(()).into(), Code::DeadlineExceeded),
            (Status::resource_exhausted("slow down").into(), Code::ResourceExhausted),
        ] {
            let status = transport_status(error);
            assert_eq!(status.code(), code, "{status}");
            assert!(code != Code::Unavailable || status.message() == "the service is unavailable");
        }
    }

    #[tokio::test]
    async fn a_stopped_or_unreachable_peer_is_unavailable() {
        let (channel, stop) = serve("transport").await;
        let peer = remote("stopped", channel);
        assert_eq!(code_of(&peer, "Call", &[]).await, Code::Ok);
        drop(stop);
        let stopped = async {
            while code_of(&peer, "Call", &[]).await != Code::Unavailable {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), stopped).await.expect("the server stops");
        let unreachable = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        assert_eq!(code_of(&remote("unreachable", unreachable), "Call", &[]).await, Code::Unavailable);
    }

    #[tokio::test]
    async fn a_dropped_call_is_recorded_as_cancelled() {
        recorder::install();
        let peer = local("client_dropped");
        let call = code_of(&peer, "Hang", &[]);
        tokio::time::timeout(Duration::from_millis(20), call).await.expect_err("the call hangs");
        let line = r#"grpc_client_calls_total{peer="client_dropped",method="Hang",code="CANCELLED"} 1"#;
        assert!(recorder::install().render().contains(line));
    }
}
