//! Line that shows a record of the event log, as text or as JSON.

use std::time::{SystemTime, UNIX_EPOCH};

use events::Record;
use proto::events::event::Kind;
use serde_json::{Map, Value, json};

use super::fields::{self, Fields};

/// Record in the form that is printed.
pub(super) struct Line {
    fields: Fields,
}

impl Line {
    /// Creates the line of a record. Its age is counted from now.
    pub(super) fn of(record: &Record) -> Self {
        let kind = Kind::decode(&record.payload);
        let name = if record.is_malformed() { "malformed" } else { record.kind.as_str() };
        let mut fields = vec![
            ("time", json!(time(record.created_at_us))),
            ("position", json!(format!("{}/{}@{}", record.topic, record.partition, record.offset))),
            ("type", json!(name)),
            ("id", json!(record.event_id.to_string())),
            ("key", json!(record.key)),
            ("version", json!(record.version)),
        ];
        match &kind {
            Some(kind) => fields.extend(fields::of(kind)),
            None => fields.push(("undecodable_bytes", json!(record.payload.len()))),
        }
        if let Some(request_id) = &record.headers.request_id {
            fields.push(("request", json!(request_id)));
        }
        fields.push(("age_ms", json!(age_ms(record.created_at_us))));
        Self { fields }
    }

    /// Returns the line: a JSON object, or time, position and type followed by `name=value`.
    pub(super) fn show(&self, json: bool) -> String {
        if json {
            let object = self.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
            return Value::Object(object.collect::<Map<_, _>>()).to_string();
        }
        let words = self.fields.iter().map(|(name, value)| match (*name, value) {
            ("time" | "position" | "type", Value::String(text)) => text.clone(),
            (name, Value::String(text)) if is_word(text) => format!("{name}={text}"),
            (name, value) => format!("{name}={value}"),
        });
        words.collect::<Vec<_>>().join(" ")
    }
}

/// Returns true for a text that can stand without quotes.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|char| char.is_ascii_graphic() && char != '"')
}

/// Formats a time in microseconds since the Unix epoch as UTC with milliseconds.
pub(super) fn time(at_us: i64) -> String {
    jiff::Timestamp::from_microsecond(at_us).map_or_else(|_| at_us.to_string(), |time| format!("{time:.3}"))
}

fn age_ms(at_us: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(now.as_micros()).unwrap_or(i64::MAX) - at_us).max(0) / 1_000
}
