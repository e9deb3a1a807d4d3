//! Around a peer: metrics per call, the deadline kept on this side too, and a transport that fails told as UNAVAILABLE.
//! The service stays `Clone + Send + Sync` where the peer is.

use std::{
    error::Error,
    task::{Context, Poll},
};

use axum::http::{Request, Response};
use futures_util::{FutureExt, future::BoxFuture};
use tonic::{Code, Status, TimeoutExpired};
use tower::ServiceExt;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    code,
    outcome::{Outcome, Side},
};
use crate::call;

type BoxError = Box<dyn Error + Send + Sync>;

/// Makes [`Client`]s of the peer with this name.
pub fn client_layer(peer: &'static str) -> ClientLayer {
    ClientLayer { peer }
}

/// Made by [`client_layer`].
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

/// A peer whose calls are seen.
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

    /// Always ready: a peer that is not makes the call wait, and its failure becomes the call's own status.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let outcome = Outcome::begin(Side::Client { peer: self.peer }, request.uri().path());
        let timeout = call::time_left(request.headers());
        let answer = self.inner.clone().oneshot(request);
        async move {
            let answer = match timeout {
                None => answer.await,
                Some(timeout) => match tokio::time::timeout(timeout, answer).await {
                    Ok(answer) => answer,
                    Err(_) => Ok(late().into_http()),
                },
            };
            let answer = answer.unwrap_or_else(|error| failed(error.into()).into_http());
            outcome.is(code::of(answer.headers()));
            Ok(answer)
        }
        .boxed()
    }
}

fn late() -> Status {
    Status::deadline_exceeded("the time for this request is over")
}

/// What a failure of the transport means to the caller. The peer's own statuses are answers and never come here.
fn failed(error: BoxError) -> Status {
    let mut source: Option<&(dyn Error + 'static)> = Some(error.as_ref());
    while let Some(current) = source {
        if current.is::<TimeoutExpired>() {
            return late();
        }
        source = current.source();
    }
    let status = Status::from_error(error);
    match status.code() {
        Code::Unknown | Code::Cancelled | Code::Internal => {
            tracing::debug!(error = %status, "a peer could not be reached");
            Status::unavailable("a service is away")
        }
        _ => status,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::{
        body::Body,
        transport::{Channel, Endpoint, server::TcpIncoming},
    };
    use tower::util::BoxCloneSyncService;

    use super::*;
    use crate::{
        grpc::{
            fake::{Fake, request},
            server_layer,
        },
        recorder,
    };

    /// What a peer is made of.
    type Peer = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

    fn local(peer: &'static str) -> Peer {
        let server = server_layer("fake").layer(Fake).map_err(|never| -> BoxError { match never {} });
        Peer::new(client_layer(peer).layer(Peer::new(server)))
    }

    fn remote(peer: &'static str, channel: Channel) -> Peer {
        Peer::new(client_layer(peer).layer(channel).map_err(Into::into))
    }

    async fn code_of(peer: &Peer, method: &str, headers: &[(&'static str, &str)]) -> Code {
        let response = peer.clone().oneshot(request(method, headers)).await.expect("an answer");
        code::of(response.headers())
    }

    /// The same server behind tonic's transport on a port of its own, until the sender is dropped.
    async fn transport(service: &'static str) -> (Channel, tokio::sync::oneshot::Sender<()>) {
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let address = incoming.local_addr().expect("an address");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tonic::transport::Server::builder().layer(server_layer(service)).add_service(Fake);
        tokio::spawn(server.serve_with_incoming_shutdown(incoming, stopped.map(|_| ())));
        let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
        (channel, stop)
    }

    #[tokio::test]
    async fn a_peer_answers_alike_in_this_process_and_over_the_network() {
        recorder::install();
        let (channel, _stop) = transport("transport").await;
        for peer in [local("alike_local"), remote("alike_remote", channel)] {
            assert_eq!(code_of(&peer, "Call", &[("x-request-id", "id")]).await, Code::Ok);
            assert_eq!(code_of(&peer, "Absent", &[]).await, Code::NotFound);
            assert_eq!(code_of(&peer, "Panic", &[]).await, Code::Internal);
            assert_eq!(code_of(&peer, "Hang", &[("grpc-timeout", "50m")]).await, Code::DeadlineExceeded);
        }
        let metrics = recorder::install().render();
        for peer in ["alike_local", "alike_remote"] {
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
    async fn the_server_answers_before_tonics_own_timers_cut_the_call_off() {
        recorder::install();
        let (channel, _stop) = transport("in_time").await;
        let peer = remote("in_time", channel);
        for _ in 0..20 {
            assert_eq!(code_of(&peer, "Hang", &[("grpc-timeout", "40m")]).await, Code::DeadlineExceeded);
        }
        // On a busy machine a timer of the client may still be first, but not always.
        let line = r#"grpc_server_calls_total{service="in_time",method="Hang",code="DEADLINE_EXCEEDED"} "#;
        let metrics = recorder::install().render();
        assert!(metrics.contains(line), "{metrics}");
    }

    #[tokio::test]
    async fn a_connection_cut_in_the_middle_is_unavailable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let cutting = async {
            loop {
                drop(listener.accept().await);
            }
        };
        let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
        let peer = remote("cut", channel);
        let code = tokio::select! {
            code = code_of(&peer, "Call", &[]) => code,
            () = cutting => unreachable!("it goes on for ever"),
        };
        assert_eq!(code, Code::Unavailable);
    }

    #[test]
    fn a_failure_of_the_transport_is_never_ours_nor_the_callers() {
        for (error, code) in [
            (BoxError::from("a transport's own words"), Code::Unavailable),
            (Status::cancelled("a stream was reset").into(), Code::Unavailable),
            (Status::internal("a broken frame").into(), Code::Unavailable),
            (TimeoutExpired(()).into(), Code::DeadlineExceeded),
            (Status::resource_exhausted("slow down").into(), Code::ResourceExhausted),
        ] {
            let status = failed(error);
            assert_eq!(status.code(), code, "{status}");
            assert!(code != Code::Unavailable || status.message() == "a service is away");
        }
    }

    #[tokio::test]
    async fn a_peer_that_is_away_is_unavailable() {
        let (channel, stop) = transport("transport").await;
        let peer = remote("away", channel);
        assert_eq!(code_of(&peer, "Call", &[]).await, Code::Ok);
        drop(stop);
        let gone = async {
            while code_of(&peer, "Call", &[]).await != Code::Unavailable {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("it is gone");
        let never = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        assert_eq!(code_of(&remote("away", never), "Call", &[]).await, Code::Unavailable);
    }

    #[tokio::test]
    async fn a_caller_that_leaves_is_recorded() {
        recorder::install();
        let peer = local("client_left");
        let call = code_of(&peer, "Hang", &[]);
        tokio::time::timeout(Duration::from_millis(20), call).await.expect_err("it hangs");
        let line = r#"grpc_client_calls_total{peer="client_left",method="Hang",code="CANCELLED"} 1"#;
        assert!(recorder::install().render().contains(line));
    }
}
