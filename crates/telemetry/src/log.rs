//! Process log on standard error: text on a terminal, else one JSON object per line. Every line written
//! inside a request carries the ids of the request and its trace, because the request's span holds them.

use std::{io::IsTerminal, str::FromStr};

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, fmt::MakeWriter, layer::SubscriberExt, registry::LookupSpan, util::SubscriberInitExt,
};

use crate::{Error, Identity, panic};

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(Error::Format(other.to_owned())),
        }
    }
}

/// Starts logging and returns the format. Without one, lines are text on a terminal and JSON elsewhere. The
/// filter has the syntax of `RUST_LOG`, such as `info,sqlx=warn`. A second call has no effect.
///
/// # Errors
/// [`Error::Filter`] if the filter does not parse.
pub fn init(format: Option<Format>, filter: &str, identity: &Identity) -> Result<Format, Error> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|reason| Error::Filter { filter: filter.to_owned(), reason: reason.to_string() })?;
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { Format::Text } else { Format::Json });
    let lines = lines(format, terminal, identity, std::io::stderr);
    #[cfg(not(feature = "tokio-console"))]
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    // The console needs spans of the runtime that the filter of the lines leaves out.
    #[cfg(feature = "tokio-console")]
    let subscriber =
        tracing_subscriber::registry().with(console_subscriber::spawn()).with(lines.with_filter(filter));
    // Fails only if a subscriber is already installed. The first one stays.
    if subscriber.try_init().is_ok() {
        panic::install_hook();
    }
    Ok(format)
}

/// Creates the layer that writes lines. Every line has the fields of the spans around it, so that it has the
/// ids of its request and its trace. A line of JSON also says which process wrote it.
pub(crate) fn lines<S, W>(
    format: Format,
    colours: bool,
    identity: &Identity,
    writer: W,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    match format {
        Format::Text => tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colours).boxed(),
        Format::Json => {
            let mut lines = json_subscriber::fmt::layer()
                .with_writer(writer)
                .flatten_event(true)
                .flatten_span_list_on_top_level(true)
                .with_current_span(false)
                .with_span_list(false);
            let fixed = lines.inner_layer_mut();
            fixed.add_static_field("service", identity.service.into());
            fixed.add_static_field("instance", identity.instance.as_str().into());
            fixed.add_static_field("version", identity.version.into());
            lines.boxed()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::captured::{Captured, keep_callsites_enabled};

    #[test]
    fn a_line_in_a_nested_span_has_the_request_id() {
        for format in [Format::Text, Format::Json] {
            let captured = Captured::start(format);
            tracing::info_span!("rpc", request_id = "id-1").in_scope(|| {
                tracing::info_span!("nested", number = 2)
                    .in_scope(|| tracing::warn!(cause = "none", "something happened"));
            });
            let text = captured.text();
            assert!(text.contains("id-1") && text.contains("something happened"), "{text}");
        }
    }

    #[test]
    fn a_json_line_is_an_object_with_the_fields_of_the_event() {
        let captured = Captured::start(Format::Json);
        tracing::info!(rows = 3, "done");
        let line: serde_json::Value = serde_json::from_str(captured.text().trim()).expect("one object");
        for (name, value) in [("message", "done"), ("level", "INFO"), ("service", "tidings-test")] {
            assert_eq!(line[name], value, "{line}");
        }
        assert_eq!(line["rows"], 3);
        for name in ["timestamp", "instance", "version"] {
            assert!(line[name].is_string(), "{name} in {line}");
        }
    }

    #[test]
    fn a_json_line_has_the_ids_of_its_request_at_the_top() {
        let captured = Captured::start(Format::Json);
        let mut call = crate::Call::new();
        let first = call.start_span(crate::trace::Kind::Server, || "first");
        call.log_span().in_scope(|| tracing::info!("done"));
        let line: serde_json::Value = serde_json::from_str(captured.text().trim()).expect("one object");
        assert_eq!(line["request_id"], call.request_id.as_str());
        let parent = first.traceparent().to_string();
        let ids = format!("{}-{}", line["trace_id"].as_str().unwrap(), line["span_id"].as_str().unwrap());
        assert!(parent.contains(&ids), "{ids} in {parent}");
    }

    #[test]
    fn a_second_start_has_no_effect_and_a_malformed_filter_is_an_error() {
        keep_callsites_enabled();
        let identity = Identity::new("tidings-test", "0");
        init(Some(Format::Text), "off", &identity).expect("started");
        init(None, "info,sqlx=warn", &identity).expect("still started");
        let error = init(None, "info,=,sqlx=loud", &identity).expect_err("malformed").to_string();
        assert!(error.contains("sqlx=loud"), "{error}");
        assert_eq!("json".parse::<Format>().expect("a format"), Format::Json);
        assert_eq!("text".parse::<Format>().expect("a format"), Format::Text);
        assert!("JSON".parse::<Format>().expect_err("malformed").to_string().contains("text or json"));
    }
}
