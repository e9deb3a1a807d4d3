//! Settings of `demo`.

use std::{fmt, str::FromStr, time::Duration};

use axum::http::Uri;
use clap::Args;

use super::parse::duration;

/// Longest run.
const LENGTH_MAX: Duration = Duration::from_secs(86_400);
/// Port of a URL without one.
const HTTP_PORT: u16 = 80;

/// Settings of `demo`.
#[derive(Debug, Clone, Args)]
pub struct Demo {
    /// Public address of Tidings: http://HOST:PORT of a gateway or of the balancer
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub url: PublicUrl,
    /// People who chat, 2 to 100; each is a new user with one WebSocket
    #[arg(
        long,
        value_name = "NUMBER",
        default_value = "6",
        value_parser = clap::value_parser!(u32).range(2..=100)
    )]
    pub people: u32,
    /// Dialogs that they create, 1 to 100: groups and direct dialogs in turn
    #[arg(
        long,
        value_name = "NUMBER",
        default_value = "4",
        value_parser = clap::value_parser!(u32).range(1..=100)
    )]
    pub dialogs: u32,
    /// Messages a second of all people together, 1 to 100; reads and deletions come on top
    #[arg(
        long,
        value_name = "NUMBER",
        default_value = "2",
        value_parser = clap::value_parser!(u32).range(1..=100)
    )]
    pub rate: u32,
    /// Time after which they stop, 1s to 1d
    #[arg(long = "for", value_name = "DURATION", default_value = "2m", value_parser = length)]
    pub length: Duration,
    /// Number of messages after which they stop, 1 to 1000000 [default: only the time counts]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub messages: Option<u64>,
}

fn length(text: &str) -> Result<Duration, String> {
    let length = duration(text)?;
    match (Duration::from_secs(1)..=LENGTH_MAX).contains(&length) {
        true => Ok(length),
        false => Err("the time is 1s to 1d".to_owned()),
    }
}

/// Address of the public API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    host: String,
    port: u16,
}

impl PublicUrl {
    /// Returns the host, an IPv6 address without brackets, and the port.
    pub fn target(&self) -> (&str, u16) {
        (self.host.trim_matches(['[', ']']), self.port)
    }

    /// Returns `HOST:PORT`.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

impl FromStr for PublicUrl {
    type Err = &'static str;

    /// Parses `http://HOST[:PORT]`, also with the path of the API.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORMAT: &str = "a URL is http://HOST:PORT, such as http://127.0.0.1:8080";
        let uri: Uri = text.parse().map_err(|_| FORMAT)?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err("https is not supported: name the http port of a gateway"),
            _ => return Err(FORMAT),
        }
        let authority = uri.authority().ok_or(FORMAT)?;
        if authority.as_str().contains('@') {
            return Err(FORMAT);
        }
        let host = authority.host();
        let is_port_whole = authority.port().is_some() || authority.as_str() == host;
        let is_api = matches!(uri.path(), "" | "/" | "/graphql") && uri.query().is_none();
        if !is_api || !is_port_whole || host.is_empty() || authority.port_u16() == Some(0) {
            return Err(FORMAT);
        }
        Ok(Self { host: host.to_owned(), port: authority.port_u16().unwrap_or(HTTP_PORT) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_host_and_a_port() {
        let parse = |text: &str| text.parse::<PublicUrl>();
        let parsed = |text: &str| parse(text).unwrap().to_string();
        for text in ["http://127.0.0.1:8080", "http://127.0.0.1:8080/", "http://127.0.0.1:8080/graphql"] {
            assert_eq!(parsed(text), "http://127.0.0.1:8080");
        }
        assert_eq!(parsed("http://chat.example"), "http://chat.example:80");
        assert_eq!(parse("http://[::1]:8080").unwrap().target(), ("::1", 8080));
        for wrong in [
            "",
            "127.0.0.1:8080",
            "ws://127.0.0.1:8080",
            "http://",
            "http://:8080",
            "http://127.0.0.1:0",
            "http://127.0.0.1:99999",
            "http://127.0.0.1:port",
            "http://ann:secret@127.0.0.1:8080",
            "http://127.0.0.1:8080/metrics",
            "http://127.0.0.1:8080/?query=x",
            "http://127.0.0.1 8080",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("https://chat.example").unwrap_err().contains("https is not supported"));
    }

    #[test]
    fn the_time_is_a_second_to_a_day() {
        assert_eq!(length("1d"), Ok(LENGTH_MAX));
        for wrong in ["999ms", "25h", "0s", "10"] {
            assert!(length(wrong).is_err(), "{wrong}");
        }
    }
}
