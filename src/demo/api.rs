//! GraphQL over HTTP/1.1 at the public address: one operation at a time on each connection. A busy server is
//! asked again when it says so, and an absent one with a growing delay, for at most [`PATIENCE`].

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use axum::{
    body::Bytes,
    http::{
        Request, StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE, HOST},
    },
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use resilience::Backoff;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::settings::PublicUrl;

/// Time for which an operation is repeated.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time until a connection is open.
pub const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Time until an answer is whole: longer than the server's own limit.
pub const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Largest answer that is read.
const ANSWER_MAX_BYTES: usize = 1 << 20;
/// Delays between the repetitions of an operation that the server did not answer.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Failure of an operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing answers at the address, or no longer.
    #[error("{url} does not answer: {reason}")]
    Silent { url: PublicUrl, reason: String },
    /// The answer is not one of this version of Tidings.
    #[error("{url} is not the public address of this version of Tidings: {reason}")]
    Foreign { url: PublicUrl, reason: String },
    /// The server refuses the operation.
    #[error("{code}: {message}")]
    Refused { code: String, message: String, retry_after: Option<Duration> },
}

impl Error {
    /// Returns the delay before the operation may be repeated; `None` if that would not help.
    fn delay(&self, backoff: &mut Backoff) -> Option<Duration> {
        match self {
            Self::Silent { .. } => Some(backoff.next_delay()),
            Self::Foreign { .. } => None,
            Self::Refused { code, retry_after, .. } => match code.as_str() {
                "RATE_LIMITED" => Some(retry_after.unwrap_or_else(|| backoff.next_delay())),
                "UNAVAILABLE" | "DEADLINE_EXCEEDED" => Some(backoff.next_delay()),
                _ => None,
            },
        }
    }
}

/// Public API of a server.
#[derive(Debug)]
pub struct Api {
    pub url: PublicUrl,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    waits: AtomicU64,
}

impl Api {
    /// Creates a client without a connection.
    pub fn new(url: PublicUrl) -> Self {
        Self { url, idle: Mutex::default(), waits: AtomicU64::new(0) }
    }

    /// Returns the number of times that an operation was delayed and repeated.
    pub fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Executes a document and returns its data. Repeats it while the server is busy or does not answer, so
    /// a mutation has to be one that may be executed twice.
    ///
    /// # Errors
    /// [`Error`], after [`PATIENCE`] if a repetition could help.
    pub async fn execute(
        &self,
        token: Option<&str>,
        document: &str,
        variables: Value,
    ) -> Result<Value, Error> {
        let start = Instant::now();
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            let error = match self.execute_once(token, document, &variables).await {
                Ok(data) => return Ok(data),
                Err(error) => error,
            };
            let Some(delay) = error.delay(&mut backoff) else { return Err(error) };
            if start.elapsed() + delay > PATIENCE {
                return Err(error);
            }
            self.waits.fetch_add(1, Ordering::Relaxed);
            sleep(delay).await;
        }
    }

    /// Executes a document once and returns its data.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn execute_once(
        &self,
        token: Option<&str>,
        document: &str,
        variables: &Value,
    ) -> Result<Value, Error> {
        let body = json!({"query": document, "variables": variables}).to_string();
        let mut request = Request::post("/graphql")
            .header(HOST, self.url.authority())
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::from(body)).expect("a host and a token are header values");
        let mut connection = self.connection().await?;
        let exchange = async {
            let answer = connection.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_MAX_BYTES).collect().await;
            Ok::<_, hyper::Error>((status, body.map(|body| body.to_bytes())))
        };
        let exchanged = timeout(ANSWER_MAX, exchange).await.map_err(|_| self.silent("no answer in 15 s"))?;
        let (status, body) = exchanged.map_err(|error| self.silent(error))?;
        let body = body.map_err(|error| self.silent(error))?;
        self.idle.lock().push(connection);
        self.data(status, &body)
    }

    /// Opens a TCP connection.
    ///
    /// # Errors
    /// [`Error::Silent`].
    pub async fn tcp(&self) -> Result<TcpStream, Error> {
        let connected = timeout(CONNECT_MAX, TcpStream::connect(self.url.target())).await;
        let stream = connected.map_err(|_| self.silent("no connection in 5 s"))?;
        let stream = stream.map_err(|error| self.silent(error))?;
        stream.set_nodelay(true).map_err(|error: io::Error| self.silent(error))?;
        Ok(stream)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Error> {
        let stream = TokioIo::new(self.tcp().await?);
        let (sender, driver) = handshake(stream).await.map_err(|error| self.silent(error))?;
        // Ends with the sender.
        tokio::spawn(driver);
        Ok(sender)
    }

    /// Takes an idle connection that the server has not closed, or opens one.
    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>, Error> {
        loop {
            let idle = self.idle.lock().pop();
            let Some(mut connection) = idle else { return self.connect().await };
            if connection.ready().await.is_ok() {
                return Ok(connection);
            }
        }
    }

    /// Returns the data of an answer, which has no errors.
    fn data(&self, status: StatusCode, body: &[u8]) -> Result<Value, Error> {
        let mut answer: Value = serde_json::from_slice(body).unwrap_or_default();
        let Some(error) = answer.pointer("/errors/0") else {
            return match answer.pointer_mut("/data").map(Value::take) {
                Some(data @ Value::Object(_)) => Ok(data),
                // A balancer without a server answers so too.
                _ if status.is_server_error() => Err(self.silent(status)),
                _ => Err(self.foreign(format!("POST /graphql is answered with {status}"))),
            };
        };
        let message = error["message"].as_str().unwrap_or_default().to_owned();
        match error["extensions"]["code"].as_str() {
            None | Some("GRAPHQL_PARSE_FAILED" | "GRAPHQL_VALIDATION_FAILED") => Err(self.foreign(message)),
            Some(code) => {
                let retry_after = error["extensions"]["retryAfterMs"].as_u64().map(Duration::from_millis);
                Err(Error::Refused { code: code.to_owned(), message, retry_after })
            }
        }
    }

    /// Creates an error of a server that does not answer.
    pub fn silent(&self, reason: impl ToString) -> Error {
        Error::Silent { url: self.url.clone(), reason: reason.to_string() }
    }

    fn foreign(&self, reason: String) -> Error {
        Error::Foreign { url: self.url.clone(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_of(status: u16, body: &str) -> Result<Value, Error> {
        let api = Api::new("http://127.0.0.1:8080".parse().unwrap());
        api.data(StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    #[test]
    fn an_answer_is_data_or_says_why_there_is_none() {
        assert_eq!(data_of(200, r#"{"data":{"a":1}}"#).unwrap(), json!({"a": 1}));
        for (status, body) in [(404, "no such page"), (200, "<html>"), (200, "[]"), (200, r#"{"data":null}"#)]
        {
            assert!(matches!(data_of(status, body), Err(Error::Foreign { .. })), "{status} {body}");
        }
        assert!(matches!(data_of(503, "no server"), Err(Error::Silent { .. })));
        let error = |extensions: Value| {
            json!({"data": null, "errors": [{"message": "why", "extensions": extensions}]}).to_string()
        };
        for extensions in [Value::Null, json!({"code": "GRAPHQL_VALIDATION_FAILED"})] {
            assert!(matches!(data_of(400, &error(extensions)), Err(Error::Foreign { .. })));
        }
        let refused = data_of(200, &error(json!({"code": "CONFLICT"}))).unwrap_err();
        assert_eq!(refused.to_string(), "CONFLICT: why");
    }

    #[test]
    fn a_busy_server_names_the_delay_and_a_refusal_is_final() {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        let mut delay = |code: &str, retry_after_ms: Option<u64>| {
            let retry_after = retry_after_ms.map(Duration::from_millis);
            Error::Refused { code: code.to_owned(), message: String::new(), retry_after }.delay(&mut backoff)
        };
        assert_eq!(delay("RATE_LIMITED", Some(1_500)), Some(Duration::from_millis(1_500)));
        assert_eq!(delay("UNAVAILABLE", None), Some(RETRY_FIRST));
        assert_eq!(delay("DEADLINE_EXCEEDED", None), Some(2 * RETRY_FIRST));
        assert_eq!(delay("BAD_USER_INPUT", None), None);
    }
}
