//! Attacks that must cost nothing: each is refused with its code before anything is executed, in a moment, and leaves no
//! memory taken. `make attacks` prints the report of an optimised build; ATTACKS says how often each is tried.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::{
    app::App,
    attacks_table::{Attack, Refusal, Request, Sent, attacks, guesses},
    device::Device,
    person::Person,
    raw,
    sockets::{are_gone, most},
    transport::Told,
};

/// What stands for work: calls of services, operations that were executed, documents that were parsed.
const WORK: [&str; 3] =
    ["grpc_client_calls_total", "gateway_operations_total", "gateway_documents_parsed_total"];
/// Sockets that never say who they are, and how many of them there may be at once.
const SILENT: usize = 1_000;
const ANONYMOUS_MAX: &str = "600";
/// What a second round may add to the memory of the first: an allocator keeps what it once had where it likes.
const GROWTH_MAX: f64 = 1.10;
const SPARE_BYTES: f64 = 4e6;
/// The goal of a median, in milliseconds; told beside the figures, and no condition.
const GOAL_MS: f64 = 5.0;

/// A program, and who attacks it: somebody who is signed in, for whom more would be done.
struct Target {
    app: App,
    person: Person,
}

/// What became of an attack that was tried many times.
struct Line {
    name: String,
    by: &'static str,
    refusal: Refusal,
    /// How many documents were parsed.
    parsed: f64,
    /// Sorted.
    times: Vec<Duration>,
    /// The most that was written before the answer was there.
    written_bytes: usize,
}

impl Target {
    async fn start(setting: (&str, &str)) -> Self {
        // However long it takes, who attacks stays signed in.
        let app = App::start_with(&[setting, ("ACCESS_TOKEN_TTL", "12h")]).await;
        let person = Person::register(&app, "mallory").await;
        let target = Self { app, person };
        assert!(target.work().await.iter().all(|count| *count > 0.0), "work is counted");
        target
    }

    async fn work(&self) -> [f64; 3] {
        let mut counts = [0.0; 3];
        for (count, name) in counts.iter_mut().zip(WORK) {
            *count = self.app.metric(name).await;
        }
        counts
    }

    /// Tries each of these so many times.
    async fn suffer(&self, attacks: &[Attack], times: usize) -> Vec<Line> {
        let mut lines = Vec::new();
        for attack in attacks {
            lines.push(self.repeat(attack, times).await);
        }
        lines
    }

    async fn repeat(&self, attack: &Attack, times: usize) -> Line {
        let (name, by, refusal) = (attack.name.clone(), attack.by, attack.refusal);
        let mut line = Line { name, by, refusal, parsed: 0.0, times: Vec::new(), written_bytes: 0 };
        let [calls, executed, parsed] = self.work().await;
        for _ in 0..times {
            let (told, took) = match &attack.sent {
                Sent::Request(request) => self.request(request, &mut line).await,
                Sent::Message(_) | Sent::Announced(_) => self.message(&attack.sent).await,
            };
            attack.refused(&told);
            line.times.push(took);
        }
        let after = self.work().await;
        assert_eq!([calls, executed], after[..2], "nothing was called or executed: {} by {by}", attack.name);
        line.parsed = after[2] - parsed;
        assert!(attack.parsed || line.parsed == 0.0, "{} were parsed: {} by {by}", line.parsed, attack.name);
        line.times.sort();
        line
    }

    /// On a connection of its own.
    async fn request(&self, request: &Request, line: &mut Line) -> (Told, Duration) {
        let length = match (request.length, request.times) {
            (Some(length), _) => format!("content-length: {length}\r\n"),
            (None, 0) => String::new(),
            (None, _) => "transfer-encoding: chunked\r\n".to_owned(),
        };
        let head = format!(
            "{} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-type: {}\r\n\
            accept: application/graphql-response+json\r\nconnection: close\r\n{length}\r\n",
            request.line, self.person.token, request.content_type
        );
        let begun = Instant::now();
        let bodies = std::iter::repeat_n(request.body.as_bytes(), request.times);
        let heard = raw::say(&self.app.url, std::iter::once(head.as_bytes()).chain(bodies)).await;
        let took = begun.elapsed();
        line.written_bytes = line.written_bytes.max(heard.written_bytes);
        let status = heard.text.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = heard.text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (Told { status, ..Told::answered(serde_json::from_str(body).unwrap_or_default()) }, took)
    }

    /// On a socket of its own, which has gone when the answer is told.
    async fn message(&self, sent: &Sent) -> (Told, Duration) {
        let mut device = Device::connect(&self.person).await;
        let begun = Instant::now();
        match sent {
            Sent::Announced(bytes) => device.announce(*bytes).await,
            Sent::Message(text) => device.say_raw(Message::text(text.clone())).await,
            Sent::Request(_) => unreachable!("a request goes over HTTP"),
        }
        let heard = device.heard().await;
        let took = begun.elapsed();
        match heard {
            Ok(mut message) => {
                assert_eq!(message["type"], "error", "{message}");
                device.leave().await;
                device.stay().await;
                (Told::answered(serde_json::json!({"errors": message["payload"].take()})), took)
            }
            Err(code) => (Told::closed(code), took),
        }
    }
}

impl Attack {
    /// With its code, without data, and without a hint.
    fn refused(&self, told: &Told) {
        let place = format!("{} by {}: {told:?}", self.name, self.by);
        let code = |answer: &Value| answer["errors"][0]["extensions"]["code"].as_str().map(str::to_owned);
        match self.refusal {
            Refusal::Whole(status, expected) => {
                assert_eq!((told.status, told.code()), (Some(status), expected), "{place}");
            }
            Refusal::Each(expected) => {
                let answers = told.answer.as_array().unwrap_or_else(|| panic!("{place}"));
                assert!(!answers.is_empty() && told.status == Some(200), "{place}");
                assert!(answers.iter().all(|answer| code(answer).as_deref() == Some(expected)), "{place}");
            }
            Refusal::Error(expected) => assert_eq!((told.closed, told.code()), (None, expected), "{place}"),
            Refusal::Close(expected) => assert_eq!(told.closed, Some(expected), "{place}"),
        }
        let text = told.answer.to_string();
        assert!(!text.contains("\"data\"") && !text.to_lowercase().contains("did you mean"), "{place}");
        assert!(text.len() < 20_000, "an answer is no attack on others: {} bytes, {place}", text.len());
    }
}

impl Line {
    fn print(&self) {
        let ms = |time: &Duration| time.as_secs_f64() * 1000.0;
        let (median, slowest) =
            (ms(&self.times[self.times.len() / 2]), ms(&self.times[self.times.len() - 1]));
        let mark = if median < GOAL_MS { "" } else { "  over the goal" };
        let (name, by, refusal) = (&self.name, self.by, self.refusal.to_string());
        println!("{name:<56} {by:<7} {refusal:<31} {:>6} {median:>8.2} {slowest:>8.2}{mark}", self.parsed);
    }
}

fn print(lines: &[Line], times: usize) {
    println!("each {times} times, on connections of their own; milliseconds, goal of a median {GOAL_MS}");
    println!(
        "{:<56} {:<7} {:<31} {:>6} {:>8} {:>8}",
        "attack", "by", "answer", "parsed", "median", "slowest"
    );
    for line in lines {
        line.print();
    }
    let within =
        lines.iter().filter(|line| line.times[line.times.len() / 2].as_secs_f64() * 1000.0 < GOAL_MS).count();
    println!("{within} of {} medians are within the goal", lines.len());
}

/// Opens sockets that say nothing; how many were closed for that and how many had been refused, and after how long the
/// first was closed.
async fn silence(app: &App, count: usize) -> (usize, usize, Duration) {
    let open = |_: usize| async {
        let begun = Instant::now();
        let opened = Device::try_open(&app.url, "graphql-transport-ws").await;
        match opened {
            Ok(mut device) => Some(tokio::spawn(async move { (device.closed().await.0, begun.elapsed()) })),
            Err(Error::Http(answer)) if answer.status() == 503 => None,
            Err(error) => panic!("{error}"),
        }
    };
    let opened: Vec<_> = stream::iter(0..count).map(open).buffer_unordered(50).collect().await;
    let (mut closed, mut first) = (0, Duration::MAX);
    for socket in opened.into_iter().flatten() {
        let (code, after) = socket.await.unwrap();
        assert_eq!(code, 4408, "no connection_init");
        (closed, first) = (closed + 1, first.min(after));
    }
    are_gone(app, Duration::from_secs(10)).await;
    (closed, count - closed, first)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_to_hurt_is_refused_before_anything_is_done_for_it() {
    let times = std::env::var("ATTACKS").map_or(10, |times| times.parse().unwrap());
    let target = Target::start(("MAX_ANONYMOUS_SOCKETS", ANONYMOUS_MAX)).await;
    let closed = Target::start(("INTROSPECTION", "off")).await;
    let (attacks, count) = (attacks(), most(SILENT));
    let mut resident = vec![target.app.resident()];
    let mut lines = Vec::new();
    for _ in ["to warm up", "to be measured"] {
        lines = target.suffer(&attacks, times).await;
        let (sockets, refused, first) = silence(&target.app, count).await;
        assert!(first >= Duration::from_secs(3), "{first:?}");
        assert!(sockets >= ANONYMOUS_MAX.parse::<usize>().unwrap().min(count), "{sockets} were let in");
        println!(
            "of {count} silent sockets {sockets} were closed with 4408, {refused} refused with 503; none is left"
        );
        resident.push(target.app.resident());
    }
    lines.extend(closed.suffer(&guesses(), times).await);
    print(&lines, times);
    for line in lines.iter().filter(|line| line.name.contains("60 MB")) {
        println!("{}: {} kB were on their way when it was refused", line.name, line.written_bytes / 1000);
        assert!(line.written_bytes < 30 << 20, "{}: {} bytes were taken", line.name, line.written_bytes);
    }
    println!("resident at the start, after a round, after another: {resident:?} bytes");
    let [_, warm, end] = resident[..] else { unreachable!("three were taken") };
    assert!(end as f64 <= warm as f64 * GROWTH_MAX + SPARE_BYTES, "{warm} bytes became {end}");
}
