//! The log: text for people on a terminal, a JSON object per line for machines, on standard error. Every line inside a
//! request carries its id by the request's span.

use std::{io::IsTerminal, str::FromStr};

use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::MakeWriter,
    layer::{Layered, SubscriberExt},
    util::SubscriberInitExt,
};

use crate::{Error, panic};

/// What the lines are written of.
pub(crate) type Filtered = Layered<EnvFilter, Registry>;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// An object per line.
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

/// Starts the log. Without a format: text on a terminal, else JSON. The filter is what `RUST_LOG` holds: `info`,
/// `info,sqlx=warn`. A second call changes nothing.
///
/// # Errors
/// Where the filter does not parse.
pub fn init(format: Option<Format>, filter: &str) -> Result<(), Error> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|reason| Error::Filter { filter: filter.to_owned(), reason: reason.to_string() })?;
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { Format::Text } else { Format::Json });
    let lines = lines(format, terminal, std::io::stderr);
    // Only a log that is there already refuses: the first one stays.
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        panic::hook();
    }
    Ok(())
}

/// Writes lines of this form. Spans are listed with their fields, so that the request's id is on every line.
pub(crate) fn lines<W>(format: Format, colours: bool, writer: W) -> Box<dyn Layer<Filtered> + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        Format::Text => lines.with_ansi(colours).boxed(),
        Format::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::captured::Captured;

    #[test]
    fn every_line_inside_a_request_has_its_id_however_deep() {
        for format in [Format::Text, Format::Json] {
            let captured = Captured::begin(format);
            tracing::info_span!("rpc", request_id = "id-1").in_scope(|| {
                tracing::info_span!("deeper", number = 2)
                    .in_scope(|| tracing::warn!(cause = "none", "it happened"));
            });
            let text = captured.text();
            assert!(text.contains("id-1") && text.contains("it happened"), "{text}");
        }
    }

    #[test]
    fn a_json_line_is_an_object_with_the_fields_of_the_event() {
        let captured = Captured::begin(Format::Json);
        tracing::info!(rows = 3, "done");
        let line: serde_json::Value = serde_json::from_str(captured.text().trim()).expect("one object");
        assert_eq!(
            (&line["rows"], &line["message"], &line["level"]),
            (&3.into(), &"done".into(), &"INFO".into())
        );
    }

    #[test]
    fn starting_twice_changes_nothing_and_nonsense_is_said() {
        init(Some(Format::Text), "off").expect("started");
        init(None, "info,sqlx=warn").expect("still started");
        let error = init(None, "info,=,sqlx=loud").expect_err("refused").to_string();
        assert!(error.contains("sqlx=loud"), "{error}");
        assert_eq!("json".parse::<Format>().expect("a format"), Format::Json);
        assert_eq!("text".parse::<Format>().expect("a format"), Format::Text);
        assert!("JSON".parse::<Format>().expect_err("refused").to_string().contains("text or json"));
    }
}
