//! Fake gRPC service for the tests of the layers. The method's name decides the outcome.

use testkit::{FakeGrpc, FakeRequest};
use tonic::{Response, Status};

use crate::Call;

/// Creates a service with the methods `Call` (replies with the received [`Call`] in the metadata),
/// `Absent` (NOT_FOUND), `Panic` and `Hang`. Other methods are UNIMPLEMENTED.
pub(super) fn fake() -> FakeGrpc {
    FakeGrpc::new(handle)
}

async fn handle(request: FakeRequest) -> Result<Response<Vec<u8>>, Status> {
    match request.method.as_str() {
        "Call" => {
            let call = request.extensions.get::<Call>().expect("the layer attaches the call");
            let mut response = Response::new(Vec::new());
            response.metadata_mut().insert("call", format!("{call:?}").parse().expect("a header value"));
            Ok(response)
        }
        "Absent" => Err(Status::not_found("absent")),
        "Panic" => panic!("the handler's secret reason"),
        "Hang" => std::future::pending().await,
        _ => Err(Status::unimplemented("unknown method")),
    }
}
