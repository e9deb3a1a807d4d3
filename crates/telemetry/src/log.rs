//! The log: text for people on a terminal, a JSON object per line for machines, on standard error. Every line inside a
//! request carries its id by the request's span.

use std::{io::IsTerminal, str::FromStr};

use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::Error;

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
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Text => lines.with_ansi(terminal).boxed(),
        Format::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    // Only a log that is there already refuses: the first one stays.
    let _already = tracing_subscriber::registry().with(filter).with(lines).try_init();
    Ok(())
}
