//! Collector of traces that counts the spans it receives.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::anyhow;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tokio::task::JoinHandle;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

/// Running collector. It stops when it is dropped.
pub struct Collector {
    /// Address for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub url: String,
    received: Received,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

#[derive(Clone, Default)]
struct Received(Arc<AtomicUsize>);

impl Collector {
    /// Starts a collector on a free port.
    pub fn start() -> anyhow::Result<Self> {
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).map_err(|error| anyhow!(error))?;
        let url = format!("http://{}", incoming.local_addr()?);
        let received = Received::default();
        let server = Server::builder().add_service(TraceServiceServer::new(received.clone()));
        let server = tokio::spawn(server.serve_with_incoming(incoming));
        Ok(Self { url, received, server })
    }

    /// Returns the number of received spans.
    pub fn spans(&self) -> usize {
        self.received.0.load(Ordering::Relaxed)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans;
        let scopes = resources.iter().flat_map(|resource| &resource.scope_spans);
        self.0.fetch_add(scopes.map(|scope| scope.spans.len()).sum(), Ordering::Relaxed);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
