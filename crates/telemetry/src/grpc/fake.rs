//! A gRPC server for the tests of the layers: what it does is the method's name.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use axum::http::{Request, Response};
use futures_util::future::BoxFuture;
use tonic::{Status, body::Body, server::NamedService};
use tower_service::Service;

use crate::Call;

#[derive(Clone)]
pub(super) struct Fake;

impl NamedService for Fake {
    const NAME: &'static str = "fake.Fake";
}

impl Service<Request<Body>> for Fake {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async move {
            let path = request.uri().path();
            Ok(match path.rsplit('/').next().expect("a last part") {
                "Absent" => Status::not_found("no such thing").into_http(),
                "Panic" => panic!("the handler's secret reason"),
                "Hang" => std::future::pending().await,
                "Call" => {
                    let call = request.extensions().get::<Call>().expect("a call in the extensions");
                    let mut response = Response::new(Body::empty());
                    response.headers_mut().insert("grpc-status", "0".parse().expect("a value"));
                    response.headers_mut().insert("call", format!("{call:?}").parse().expect("a value"));
                    response
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

pub(super) fn request(method: &str, headers: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = Request::post(format!("http://fake/fake.Fake/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).expect("a request")
}
