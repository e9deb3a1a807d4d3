//! Spans of OpenTelemetry: what a request did, in which service and when, exported by OTLP. A span says its
//! parent as a [`Traceparent`], because most parents are in another process or were read from the event log.
//! Without an exporter a span is only its id, which log lines and outgoing calls carry all the same.
//!
//! The variables of the standard apply, among them `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`,
//! `OTEL_TRACES_SAMPLER` and `OTEL_SDK_DISABLED`:
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>.

use std::{borrow::Cow, env, sync::OnceLock, time::Duration};

use opentelemetry::{
    Context, KeyValue, Value,
    trace::{
        Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags,
        TraceId, TraceState, Tracer, TracerProvider,
    },
};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};

use crate::{Error, Identity, Traceparent};

/// Maximum time to export the last spans at the end of the process.
const LAST_EXPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// Variables that name the collector. The first one that is set decides.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Creator of the spans of this process. Unset while spans are not exported.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Export of the spans of this process.
#[derive(Debug)]
pub struct Export(Option<SdkTracerProvider>);

impl Export {
    /// Starts the export if the environment names a collector. Runs in a runtime of tokio. Where this process
    /// exports already, a second call has no effect.
    ///
    /// # Errors
    /// [`Error::Traces`] if the endpoint is not a URL of http, or another variable is malformed.
    pub fn start(identity: &Identity) -> Result<Self, Error> {
        if !is_enabled(|name| env::var(name).ok()) {
            return Ok(Self(None));
        }
        let exporter = SpanExporter::builder().with_tonic().build();
        let exporter = exporter.map_err(|reason| Error::Traces(reason.to_string()))?;
        let resource = Resource::builder().with_attributes([
            KeyValue::new("service.namespace", "tidings"),
            KeyValue::new("service.version", identity.version),
            KeyValue::new("service.instance.id", identity.instance.clone()),
        ]);
        // Without OTEL_SERVICE_NAME, the SDK says "unknown_service".
        let resource = match env::var("OTEL_SERVICE_NAME") {
            Ok(name) if !name.is_empty() => resource,
            _ => resource.with_service_name(identity.service),
        };
        let builder = SdkTracerProvider::builder().with_resource(resource.build());
        let provider = builder.with_batch_exporter(exporter).build();
        // Fails only if spans are exported already.
        let _ = TRACER.set(provider.tracer("tidings"));
        Ok(Self(Some(provider)))
    }

    /// Exports the last spans, for at most 2 s.
    pub async fn finish(self) {
        let Some(provider) = self.0 else { return };
        // Blocks the thread until the exporter has answered.
        let shutdown = move || provider.shutdown_with_timeout(LAST_EXPORT_TIMEOUT);
        match tokio::task::spawn_blocking(shutdown).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans were not exported"),
            Err(error) => tracing::warn!(%error, "the last spans were not exported"),
        }
    }
}

/// Returns true if the variables name a collector and do not disable tracing.
fn is_enabled(variable: impl Fn(&str) -> Option<String>) -> bool {
    let is = |name, expected: &str| variable(name).is_some_and(|value| value.eq_ignore_ascii_case(expected));
    let names_collector = ENDPOINTS.iter().any(|name| variable(name).is_some_and(|value| !value.is_empty()));
    names_collector && !is("OTEL_SDK_DISABLED", "true") && !is("OTEL_TRACES_EXPORTER", "none")
}

/// Returns true if spans are exported. What only spans need is then prepared.
pub fn is_exported() -> bool {
    TRACER.get().is_some()
}

/// Role of a span in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Serves a request of another process.
    Server,
    /// Waits for another process.
    Client,
    /// Writes a record to a log.
    Producer,
    /// Applies a record of a log.
    Consumer,
    /// Work inside a process.
    Internal,
}

impl From<Kind> for SpanKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Server => Self::Server,
            Kind::Client => Self::Client,
            Kind::Producer => Self::Producer,
            Kind::Consumer => Self::Consumer,
            Kind::Internal => Self::Internal,
        }
    }
}

/// Running span. It ends when it is dropped.
#[derive(Debug)]
pub struct Span {
    traceparent: Traceparent,
    /// `None` if the span is not exported.
    recorded: Option<Box<opentelemetry_sdk::trace::Span>>,
}

impl Span {
    /// Starts a span. Without a parent it is the first one of a new trace, and the sampler decides whether
    /// the trace is exported.
    pub fn start<N: Into<Cow<'static, str>>>(
        kind: Kind,
        name: impl FnOnce() -> N,
        parent: Option<Traceparent>,
    ) -> Self {
        Self::linked(kind, name, parent, &[])
    }

    /// Starts a span that follows from others, such as one batch of many records.
    pub fn linked<N: Into<Cow<'static, str>>>(
        kind: Kind,
        name: impl FnOnce() -> N,
        parent: Option<Traceparent>,
        links: &[Traceparent],
    ) -> Self {
        let Some(tracer) = TRACER.get() else {
            return Self {
                traceparent: parent.map_or_else(Traceparent::random, |it| it.child()),
                recorded: None,
            };
        };
        let links: Vec<Link> = links.iter().map(|link| Link::with_context(context(*link))).collect();
        let parent =
            parent.map_or_else(Context::new, |it| Context::new().with_remote_span_context(context(it)));
        let builder = SpanBuilder::from_name(name()).with_kind(kind.into());
        let builder = if links.is_empty() { builder } else { builder.with_links(links) };
        let span = tracer.build_with_context(builder, &parent);
        let traceparent = traceparent(span.span_context());
        Self { traceparent, recorded: span.is_recording().then(|| Box::new(span)) }
    }

    /// Returns the context of what this span causes.
    pub fn traceparent(&self) -> Traceparent {
        self.traceparent
    }

    /// Returns true if the span is exported.
    pub fn is_recorded(&self) -> bool {
        self.recorded.is_some()
    }

    /// Sets an attribute. Never a text of a user, a login or a token.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.recorded {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Says that the work has failed.
    pub fn fail(&mut self, reason: impl Into<Cow<'static, str>>) {
        if let Some(span) = &mut self.recorded {
            span.set_status(Status::error(reason));
        }
    }
}

fn context(of: Traceparent) -> SpanContext {
    let flags = TraceFlags::new(of.flags());
    let trace = TraceId::from_bytes(of.trace_id().to_be_bytes());
    SpanContext::new(trace, SpanId::from_bytes(of.span_id().to_be_bytes()), flags, true, TraceState::NONE)
}

fn traceparent(of: &SpanContext) -> Traceparent {
    let trace = u128::from_be_bytes(of.trace_id().to_bytes());
    Traceparent::new(trace, u64::from_be_bytes(of.span_id().to_bytes()), of.trace_flags().to_u8())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_or_nothing_is_named() {
        let enabled = |variables: &'static [(&'static str, &'static str)]| {
            is_enabled(|name| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(!enabled(&[]));
        assert!(!enabled(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]));
        assert!(enabled(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")]));
        assert!(enabled(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4317")]));
        let disabled = [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")];
        for switch in disabled {
            let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317"), switch];
            let value = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert!(!is_enabled(value), "{switch:?}");
        }
    }

    #[test]
    fn a_span_that_is_not_exported_continues_the_trace() {
        let first = Span::start(Kind::Server, || "first", None);
        let mut second = Span::start(Kind::Internal, || "second", Some(first.traceparent()));
        second.set("ignored", 1);
        second.fail("ignored");
        assert!(!second.is_recorded());
        assert_eq!(second.traceparent().trace_id(), first.traceparent().trace_id());
        assert_ne!(second.traceparent().span_id(), first.traceparent().span_id());
    }

    #[test]
    fn contexts_round_trip() {
        let first = Traceparent::random();
        assert_eq!(traceparent(&context(first)), first);
    }
}
