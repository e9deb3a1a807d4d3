//! Spans of the event log. A record carries the context of its request, so the trace of a request goes on
//! through the log: publishing a record is a child of the work that wrote the event, and applying it a child
//! of the publishing. A batch is one piece of work for the requests of all its records. Its span belongs to
//! the trace of the first one and links to all of them.

use telemetry::{
    Traceparent,
    trace::{self, Kind, Span},
};

use crate::{Headers, Record, outbox::PendingEvent};

/// Maximum number of links of a batch. Collectors keep no more than 128.
const LINKS_MAX: usize = 128;

impl Headers {
    /// Returns the id of the request's trace as lines of the log have it.
    pub(crate) fn trace_id(&self) -> Option<String> {
        let traceparent = self.traceparent.as_deref().and_then(Traceparent::parse)?;
        Some(format!("{:032x}", traceparent.trace_id()))
    }

    /// Returns the context of the request if its trace is exported.
    pub fn sampled(&self) -> Option<Traceparent> {
        if !trace::is_exported() {
            return None;
        }
        self.traceparent.as_deref().and_then(Traceparent::parse).filter(Traceparent::is_sampled)
    }

    /// Returns the headers of what happens in a span.
    #[must_use]
    pub fn within(&self, span: &Span) -> Self {
        Self { request_id: self.request_id.clone(), traceparent: Some(span.traceparent().to_string()) }
    }
}

/// Starts the span of sending an event to Kafka.
pub(crate) fn send(event: &PendingEvent) -> Option<Span> {
    let parent = event.headers.sampled()?;
    let mut span = Span::start(Kind::Producer, || format!("send {}", event.topic), Some(parent));
    describe(&mut span, "send", &event.topic, &event.kind);
    span.set("messaging.message.id", event.event_id.to_string());
    Some(span)
}

/// Spans of a batch of records and of the transaction that applies it.
pub(crate) struct Applying {
    records: Vec<Option<Span>>,
    transaction: Span,
}

impl Applying {
    /// Starts the spans. `None` if no record belongs to an exported trace.
    pub(crate) fn start(consumer: &'static str, system: &'static str, records: &[Record]) -> Option<Self> {
        let mut spans = Vec::new();
        let mut links = Vec::new();
        for (index, record) in records.iter().enumerate() {
            let Some(parent) = record.headers.sampled() else { continue };
            let span = process(consumer, record, parent);
            links.push(span.traceparent());
            spans.resize_with(index, || None);
            spans.push(Some(span));
        }
        let (first, others) = links.split_first()?;
        let others = others.get(..LINKS_MAX.min(others.len())).unwrap_or_default();
        let name = || format!("transaction {consumer}");
        let mut transaction = Span::linked(Kind::Client, name, Some(*first), others);
        transaction.set("db.system.name", system);
        transaction.set("messaging.batch.message_count", i64::try_from(records.len()).unwrap_or(i64::MAX));
        Some(Self { records: spans, transaction })
    }

    /// Returns the records with headers by which what they cause belongs to their spans.
    pub(crate) fn within(&self, records: &[Record]) -> Vec<Record> {
        let mut within = records.to_vec();
        for (record, span) in within.iter_mut().zip(&self.records) {
            if let Some(span) = span {
                record.headers = record.headers.within(span);
            }
        }
        within
    }

    /// Says that the batch was not applied. It is repeated, with other spans.
    pub(crate) fn fail(&mut self) {
        self.transaction.fail("the batch is repeated");
        self.records.iter_mut().flatten().for_each(|span| span.fail("the batch is repeated"));
    }
}

/// Starts the span of applying a record that was read from the log.
pub fn process(consumer: &'static str, record: &Record, parent: Traceparent) -> Span {
    let mut span = Span::start(Kind::Consumer, || format!("process {}", record.topic), Some(parent));
    describe(&mut span, "process", record.topic, &record.kind);
    span.set("messaging.consumer.group.name", consumer);
    span.set("messaging.message.id", record.event_id.to_string());
    span.set("messaging.destination.partition.id", record.partition.to_string());
    span.set("messaging.kafka.offset", record.offset);
    span
}

fn describe(span: &mut Span, operation: &'static str, topic: &str, kind: &str) {
    span.set("messaging.system", "kafka");
    span.set("messaging.operation.name", operation);
    span.set("messaging.operation.type", operation);
    span.set("messaging.destination.name", topic.to_owned());
    span.set("tidings.event.type", kind.to_owned());
}
