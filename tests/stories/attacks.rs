//! Attacks: each is rejected with its code before anything is executed, quickly, and without keeping memory.
//! `make attacks` prints the report of an optimised build; `ATTACKS` is the number of repetitions.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::{
    app::App,
    attacks_table::{Attack, Payload, Rejection, Request, attacks, guesses},
    caller::Caller,
    raw_http,
    socket_client::SocketClient,
    sockets::{max_sockets, wait_until_closed},
    transport::Response,
};

/// Sockets that never send `connection_init`.
const SILENT_SOCKETS: usize = 1_000;
/// Setting for the number of sockets before authentication.
const ANONYMOUS_MAX: &str = "600";
/// Growth of resident memory allowed from the first round to the second, besides `SPARE_BYTES`. The
/// allocator does not return all freed memory, so exact equality cannot be expected.
const GROWTH_MAX: f64 = 1.10;
const SPARE_BYTES: f64 = 4e6;
/// Goal for the median; reported, not asserted.
const GOAL_MS: f64 = 5.0;

/// The program, and an authenticated attacker, for whom the gateway would do more work.
struct Target {
    app: App,
    attacker: Caller,
}

/// Result of one attack, repeated.
struct Measurement {
    name: String,
    transport: &'static str,
    rejection: Rejection,
    /// Number of documents that were parsed.
    parsed: f64,
    /// Durations until the rejection, sorted.
    times: Vec<Duration>,
    /// Most bytes written before the response was received.
    written_bytes: usize,
}

impl Target {
    async fn start(setting: (&str, &str)) -> Self {
        // A long test must not expire the attacker's token.
        let app = App::start_with(&[setting, ("ACCESS_TOKEN_TTL", "12h")]).await;
        let attacker = Caller::register(&app, "mallory").await;
        let target = Self { app, attacker };
        assert!(target.work().await.iter().all(|count| *count > 0.0), "the metrics of work are counted");
        target
    }

    /// Returns the work done: gRPC calls, executed operations, parsed documents.
    async fn work(&self) -> [f64; 3] {
        let executed = self.app.metric("gateway_operations_total").await;
        let parsed = self.app.metric("gateway_documents_parsed_total").await;
        [self.app.calls().await, executed, parsed]
    }

    /// Repeats each attack this many times.
    async fn measure(&self, attacks: &[Attack], times: usize) -> Vec<Measurement> {
        let mut measurements = Vec::new();
        for attack in attacks {
            measurements.push(self.repeat(attack, times).await);
        }
        measurements
    }

    async fn repeat(&self, attack: &Attack, times: usize) -> Measurement {
        let mut measurement = Measurement {
            name: attack.name.clone(),
            transport: attack.transport,
            rejection: attack.rejection,
            parsed: 0.0,
            times: Vec::new(),
            written_bytes: 0,
        };
        let [calls, executed, parsed] = self.work().await;
        for _ in 0..times {
            let (response, took) = match &attack.payload {
                Payload::Request(request) => self.request(request, &mut measurement).await,
                Payload::Message(_) | Payload::FrameHeader(_) => self.message(&attack.payload).await,
            };
            attack.assert_rejected(&response);
            measurement.times.push(took);
        }
        let after = self.work().await;
        assert_eq!([calls, executed], after[..2], "nothing was called or executed: {}", attack.description());
        measurement.parsed = after[2] - parsed;
        assert!(
            attack.parsed || measurement.parsed == 0.0,
            "{} were parsed: {}",
            measurement.parsed,
            attack.description()
        );
        measurement.times.sort();
        measurement
    }

    /// Sends a request on a new connection.
    async fn request(&self, request: &Request, measurement: &mut Measurement) -> (Response, Duration) {
        let length = match (request.length, request.times) {
            (Some(length), _) => format!("content-length: {length}\r\n"),
            (None, 0) => String::new(),
            (None, _) => "transfer-encoding: chunked\r\n".to_owned(),
        };
        let head = format!(
            "{} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-type: {}\r\n\
            accept: application/graphql-response+json\r\nconnection: close\r\n{length}\r\n",
            request.line, self.attacker.token, request.content_type
        );
        let started = Instant::now();
        let bodies = std::iter::repeat_n(request.body.as_bytes(), request.times);
        let received = raw_http::send(&self.app.url, std::iter::once(head.as_bytes()).chain(bodies)).await;
        let took = started.elapsed();
        measurement.written_bytes = measurement.written_bytes.max(received.written_bytes);
        let status = received.text.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = received.text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (
            Response { status, ..Response::without_status(serde_json::from_str(body).unwrap_or_default()) },
            took,
        )
    }

    /// Sends a message on a new socket and waits until the socket is closed.
    async fn message(&self, payload: &Payload) -> (Response, Duration) {
        let mut socket = SocketClient::connect(&self.attacker).await;
        let started = Instant::now();
        match payload {
            Payload::FrameHeader(bytes) => socket.send_frame_header(*bytes).await,
            Payload::Message(text) => socket.send_raw(Message::text(text.clone())).await,
            Payload::Request(_) => unreachable!("requests are sent over HTTP"),
        }
        let received = socket.receive_or_close().await;
        let took = started.elapsed();
        match received {
            Ok(mut message) => {
                assert_eq!(message["type"], "error", "{message}");
                socket.close().await;
                socket.keep_alive().await;
                (Response::without_status(serde_json::json!({"errors": message["payload"].take()})), took)
            }
            Err(code) => (Response::closed(code), took),
        }
    }
}

impl Attack {
    /// Describes the attack in a failed assertion.
    fn description(&self) -> String {
        format!("{} by {}", self.name, self.transport)
    }

    /// Asserts the expected code, no data, and no "did you mean" hint.
    fn assert_rejected(&self, response: &Response) {
        let case = format!("{}: {response:?}", self.description());
        let code = |answer: &Value| answer["errors"][0]["extensions"]["code"].as_str().map(str::to_owned);
        match self.rejection {
            Rejection::All(status, expected) => {
                assert_eq!((response.status, response.code()), (Some(status), expected), "{case}");
            }
            Rejection::Each(expected) => {
                let answers = response.answer.as_array().unwrap_or_else(|| panic!("{case}"));
                assert!(!answers.is_empty() && response.status == Some(200), "{case}");
                assert!(answers.iter().all(|answer| code(answer).as_deref() == Some(expected)), "{case}");
            }
            Rejection::Error(expected) => {
                assert_eq!((response.close_code, response.code()), (None, expected), "{case}")
            }
            Rejection::Close(expected) => assert_eq!(response.close_code, Some(expected), "{case}"),
        }
        let text = response.answer.to_string();
        assert!(!text.contains("\"data\"") && !text.to_lowercase().contains("did you mean"), "{case}");
        assert!(text.len() < 20_000, "the response is small: {} bytes, {case}", text.len());
    }
}

impl Measurement {
    fn print(&self) {
        let ms = |time: &Duration| time.as_secs_f64() * 1000.0;
        let median = ms(&self.times[self.times.len() / 2]);
        let slowest = ms(&self.times[self.times.len() - 1]);
        let mark = if median < GOAL_MS { "" } else { "  above the goal" };
        let name = &self.name;
        let transport = self.transport;
        let rejection = self.rejection.to_string();
        println!(
            "{name:<56} {transport:<7} {rejection:<31} {:>6} {median:>8.2} {slowest:>8.2}{mark}",
            self.parsed
        );
    }
}

fn print(measurements: &[Measurement], times: usize) {
    println!("each {times} times, each on a new connection; milliseconds, goal for the median {GOAL_MS}");
    println!(
        "{:<56} {:<7} {:<31} {:>6} {:>8} {:>8}",
        "attack", "by", "rejection", "parsed", "median", "slowest"
    );
    for measurement in measurements {
        measurement.print();
    }
    let within = measurements
        .iter()
        .filter(|measurement| measurement.times[measurement.times.len() / 2].as_secs_f64() * 1000.0 < GOAL_MS)
        .count();
    println!("{within} of {} medians are within the goal", measurements.len());
}

/// Outcome of sockets that send nothing.
struct SilentSockets {
    /// Closed with 4408.
    closed: usize,
    /// Rejected at the handshake with 429.
    rejected: usize,
    /// Time until the first close.
    first_close: Duration,
}

/// Opens sockets that send nothing, and waits until all are closed.
async fn open_silent_sockets(app: &App, count: usize) -> SilentSockets {
    let open = |_: usize| async {
        let started = Instant::now();
        let opened = SocketClient::try_open(&app.url, "graphql-transport-ws").await;
        match opened {
            Ok(mut socket) => {
                Some(tokio::spawn(async move { (socket.wait_for_close().await.0, started.elapsed()) }))
            }
            Err(Error::Http(answer)) if answer.status() == 429 => None,
            Err(error) => panic!("{error}"),
        }
    };
    let opened: Vec<_> = stream::iter(0..count).map(open).buffer_unordered(50).collect().await;
    let mut closed = 0;
    let mut first_close = Duration::MAX;
    for socket in opened.into_iter().flatten() {
        let (code, after) = socket.await.unwrap();
        assert_eq!(code, 4408, "no connection_init");
        closed += 1;
        first_close = first_close.min(after);
    }
    wait_until_closed(app, Duration::from_secs(10)).await;
    SilentSockets { closed, rejected: count - closed, first_close }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attacks_are_rejected_before_anything_is_executed() {
    let times = std::env::var("ATTACKS").map_or(10, |times| times.parse().unwrap());
    let target = Target::start(("MAX_ANONYMOUS_SOCKETS", ANONYMOUS_MAX)).await;
    let without_introspection = Target::start(("INTROSPECTION", "off")).await;
    let attacks = attacks();
    let count = max_sockets(SILENT_SOCKETS);
    let mut resident_bytes = vec![target.app.resident_bytes()];
    let mut measurements = Vec::new();
    for _ in ["warm-up", "measured"] {
        measurements = target.measure(&attacks, times).await;
        let SilentSockets { closed, rejected, first_close } = open_silent_sockets(&target.app, count).await;
        assert!(first_close >= Duration::from_secs(3), "{first_close:?}");
        // Sockets that are closed while others are opened make room for more.
        let share = ANONYMOUS_MAX.parse::<usize>().unwrap() / 10;
        assert!(closed >= share.min(count), "{closed} were accepted");
        println!(
            "{count} silent sockets: {closed} closed with 4408, {rejected} rejected with 429; none is left"
        );
        resident_bytes.push(target.app.resident_bytes());
    }
    measurements.extend(without_introspection.measure(&guesses(), times).await);
    print(&measurements, times);
    for measurement in measurements.iter().filter(|measurement| measurement.name.contains("60 MB")) {
        println!(
            "{}: {} kB were written before the rejection",
            measurement.name,
            measurement.written_bytes / 1000
        );
        assert!(
            measurement.written_bytes < 30 << 20,
            "{}: {} bytes were written",
            measurement.name,
            measurement.written_bytes
        );
    }
    println!("resident bytes at the start and after each round: {resident_bytes:?}");
    let [_, warm, end] = resident_bytes[..] else { unreachable!("three measurements") };
    assert!(end as f64 <= warm as f64 * GROWTH_MAX + SPARE_BYTES, "{warm} bytes became {end}");
}
