//! Collector of traces: an OTLP server that keeps the spans it receives.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value},
};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// Settings of a process that exports its spans soon.
const EXPORT_DELAY_MS: &str = "100";

/// A received span.
#[derive(Debug, Clone)]
pub struct Span {
    /// Name of the service that exported it.
    pub service: String,
    /// Trace, as hexadecimal digits.
    pub trace: String,
    /// Id, as hexadecimal digits.
    pub id: String,
    /// Parent, empty for the first span of a trace.
    pub parent: String,
    /// Name.
    pub name: String,
    /// Start in nanoseconds since the Unix epoch.
    pub start: u64,
    /// Duration.
    pub duration: Duration,
    /// Attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// Number of links.
    pub links: usize,
}

/// Running collector. It stops when it is dropped.
pub struct Collector {
    /// Address for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub url: String,
    spans: Received,
    server: JoinHandle<()>,
}

#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<Span>>>);

impl Collector {
    /// Starts a collector on a free port.
    pub async fn start() -> Self {
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let url = format!("http://{}", incoming.local_addr().unwrap());
        let spans = Received::default();
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(spans.clone()));
        let serving = server.serve_with_incoming(incoming);
        Self { url, spans, server: tokio::spawn(async { serving.await.unwrap() }) }
    }

    /// Returns the settings of a process that exports to this collector.
    pub fn settings(&self) -> [(&'static str, &str); 2] {
        [("OTEL_EXPORTER_OTLP_ENDPOINT", &self.url), ("OTEL_BSP_SCHEDULE_DELAY", EXPORT_DELAY_MS)]
    }

    /// Returns the spans of a trace, in the order of their starts.
    pub fn trace(&self, trace: &str) -> Trace {
        let spans = self.spans.0.lock();
        let mut spans: Vec<Span> = spans.iter().filter(|span| span.trace == trace).cloned().collect();
        spans.sort_by_key(|span| span.start);
        Trace(spans)
    }

    /// Returns all spans.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.0.lock().clone()
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
        let mut received = self.0.lock();
        for resource in request.into_inner().resource_spans {
            let of_process = attributes(&resource.resource.unwrap_or_default().attributes);
            let service = of_process.get("service.name").cloned().unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                received.push(Span {
                    service: service.clone(),
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    name: span.name,
                    start: span.start_time_unix_nano,
                    duration: Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano),
                    attributes: attributes(&span.attributes),
                    links: span.links.len(),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &any_value::Value| match value {
        any_value::Value::StringValue(text) => text.clone(),
        any_value::Value::IntValue(number) => number.to_string(),
        any_value::Value::DoubleValue(number) => number.to_string(),
        any_value::Value::BoolValue(is) => is.to_string(),
        other => format!("{other:?}"),
    };
    let pair = |attribute: &KeyValue| {
        let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
        (attribute.key.clone(), value.map(text).unwrap_or_default())
    };
    list.iter().map(pair).collect()
}

/// Spans of one trace, in the order of their starts.
#[derive(Debug)]
pub struct Trace(pub Vec<Span>);

impl Trace {
    /// Returns true if a span has this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|span| span.name == name)
    }

    /// Returns the names of the services.
    pub fn services(&self) -> BTreeSet<&str> {
        self.0.iter().map(|span| span.service.as_str()).collect()
    }

    /// Returns the spans whose parent was not received.
    pub fn roots(&self) -> Vec<&Span> {
        let is_root = |span: &&Span| !self.0.iter().any(|other| other.id == span.parent);
        self.0.iter().filter(is_root).collect()
    }

    /// Returns the names from a span up to the root.
    pub fn ancestors(&self, of: &Span) -> Vec<&str> {
        let mut names = Vec::new();
        let mut parent = of.parent.as_str();
        while let Some(span) = self.0.iter().find(|span| span.id == parent) {
            names.push(span.name.as_str());
            parent = &span.parent;
        }
        names
    }

    /// Returns the tree as text: a line for each span, with the milliseconds from the start of the trace and
    /// of its duration.
    pub fn tree(&self) -> String {
        let mut text = String::new();
        for root in self.roots() {
            self.write(&mut text, root, 0);
        }
        text
    }

    fn write(&self, text: &mut String, span: &Span, depth: usize) {
        let ms = |nanos: u64| nanos as f64 / 1e6;
        let after = ms(span.start - self.0.first().expect("a span").start);
        let lasted = span.duration.as_secs_f64() * 1e3;
        let name = format!("{}{}", "  ".repeat(depth), span.name);
        let service = &span.service;
        text.push_str(&format!("{after:8.1} {lasted:7.1} ms  {service:<16} {name}\n"));
        for child in self.0.iter().filter(|child| child.parent == span.id) {
            self.write(text, child, depth + 1);
        }
    }
}
