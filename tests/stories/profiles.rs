//! Profiles of the running program: what the operations port answers with and without the service token, and
//! that tools can read it.

use std::{
    collections::BTreeSet,
    io::Read,
    sync::Arc,
    time::{Duration, Instant},
};

use flate2::read::GzDecoder;
use prost::Message;
use reqwest::{Response, StatusCode};
use tokio::task::JoinHandle;

use crate::{app::App, caller::Caller};

const CPU: &str = "/debug/pprof/profile";
const HEAP: &str = "/debug/pprof/heap";
/// Crates of this project that take part in a sent message.
const OURS: [&str; 4] = ["gateway::", "dialog::", "counter::", "db::"];

/// The parts of `profile.proto` that the tests read, written from the format's documentation.
#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

impl Profile {
    /// Decodes the body of an answer.
    fn decode_gzip(bytes: &[u8]) -> Self {
        let mut message = Vec::new();
        GzDecoder::new(bytes).read_to_end(&mut message).expect("compressed with gzip");
        Self::decode(message.as_slice()).expect("a profile")
    }

    fn text(&self, index: i64) -> &str {
        &self.string_table[usize::try_from(index).unwrap()]
    }

    /// Returns name and unit of each value of a sample.
    fn values(&self) -> Vec<(&str, &str)> {
        self.sample_type.iter().map(|it| (self.text(it.kind), self.text(it.unit))).collect()
    }

    /// Returns the functions on the stacks of all samples. Every id that is used must be defined.
    fn functions(&self) -> BTreeSet<&str> {
        let location = |id: u64| self.location.iter().find(|it| it.id == id).expect("a defined location");
        let function = |id: u64| self.function.iter().find(|it| it.id == id).expect("a defined function");
        let ids: BTreeSet<u64> = self.sample.iter().flat_map(|sample| &sample.location_id).copied().collect();
        let lines = ids.into_iter().flat_map(|id| &location(id).line);
        lines.map(|line| self.text(function(line.function_id).name)).collect()
    }

    fn assert_names_ours(&self) {
        let functions = self.functions();
        let ours = functions.iter().filter(|name| OURS.iter().any(|start| name.contains(start))).count();
        assert!(ours > 10, "{ours} functions of ours among {functions:?}");
        let unnamed = functions.iter().filter(|name| name.starts_with("0x")).count();
        assert!(unnamed * 10 <= functions.len(), "{unnamed} without a name among {functions:?}");
    }
}

/// A program under a little load: two people who write to each other until this is dropped.
struct Loaded {
    app: Arc<App>,
    token: String,
    http: reqwest::Client,
    load: JoinHandle<()>,
}

impl Loaded {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(settings: &[(&str, &str)]) -> Self {
        let app = App::start_with(settings).await;
        let token = std::fs::read_to_string(app.folder.path().join("service-token")).unwrap();
        let ann = Caller::register(&app, "ann").await;
        let ben = Caller::register(&app, "ben").await;
        let dialog = ann.create_group(&[&ben], "profiles").await;
        let load = tokio::spawn(async move {
            loop {
                ann.send(&dialog, "hello").await;
                ben.total().await;
            }
        });
        let http = reqwest::Client::new();
        Self { app: Arc::new(app), token: token.trim().to_owned(), http, load }
    }

    async fn get(&self, path: &str) -> Response {
        let request = self.http.get(format!("{}{path}", self.app.ops)).bearer_auth(&self.token);
        request.send().await.unwrap()
    }

    /// Requests a long profile, again while another one is being recorded.
    fn record_for_a_minute(&self) -> JoinHandle<Response> {
        let http = reqwest::Client::new();
        let url = format!("{}{CPU}?seconds=60", self.app.ops);
        let request = http.get(url).bearer_auth(&self.token);
        tokio::spawn(async move {
            loop {
                let answer = request.try_clone().unwrap().send().await.unwrap();
                if answer.status() != 409 {
                    return answer;
                }
            }
        })
    }

    async fn wait_until_busy(&self) {
        testkit::eventually("a profile is being recorded", || async {
            self.get(&format!("{CPU}?seconds=1")).await.status() == 409
        })
        .await;
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.load.abort();
    }
}

#[tokio::test]
async fn a_cpu_profile_names_the_functions_that_work() {
    let loaded = Loaded::start().await;
    let answer = loaded.get(&format!("{CPU}?seconds=3")).await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("content-encoding"), "the file itself is compressed");
    let profile = Profile::decode_gzip(&answer.bytes().await.unwrap());
    assert_eq!(profile.values(), [("samples", "count"), ("cpu", "nanoseconds")]);
    assert!((2_900_000_000..10_000_000_000).contains(&profile.duration_nanos), "{}", profile.duration_nanos);
    for sample in &profile.sample {
        assert!(
            sample.value[0] > 0 && sample.value[1] == sample.value[0] * (1_000_000_000 / 99),
            "{sample:?}"
        );
    }
    profile.assert_names_ours();
    assert!(!profile.functions().contains("perf_signal_handler"), "the sampling itself");
    assert!(!loaded.load.is_finished(), "every message was sent while signals interrupted the program");
}

#[tokio::test]
async fn a_flame_graph_is_a_picture_with_the_same_names() {
    let loaded = Loaded::start().await;
    let answer = loaded.get(&format!("{CPU}?seconds=2&format=flamegraph")).await;
    assert_eq!(
        (answer.status(), &answer.headers()["content-type"]),
        (StatusCode::OK, &"image/svg+xml".parse().unwrap())
    );
    let svg = answer.text().await.unwrap();
    assert!(
        svg.starts_with("<svg xmlns='http://www.w3.org/2000/svg' ") && svg.ends_with("</svg>\n"),
        "{svg}"
    );
    assert!(OURS.iter().any(|name| svg.contains(name)), "{svg}");
    assert_eq!(svg.matches("<g>").count(), svg.matches("</g>").count());
}

#[tokio::test]
async fn one_profile_is_recorded_at_a_time_and_a_client_that_leaves_ends_it() {
    let loaded = Loaded::start().await;
    let first = loaded.record_for_a_minute();
    loaded.wait_until_busy().await;
    let answer = loaded.get(&format!("{CPU}?seconds=1")).await;
    assert_eq!(answer.status(), 409);
    let body = answer.text().await.unwrap();
    assert!(body.starts_with("this process records one profile at a time"), "{body}");
    assert_eq!(body.lines().count(), 1);
    first.abort();
    testkit::eventually("the profile of a client that has left is ended", || async {
        loaded.get(&format!("{CPU}?seconds=1")).await.status() == 200
    })
    .await;
}

#[tokio::test]
async fn a_profile_ends_with_the_process() {
    let loaded = Loaded::start().await;
    let profile = loaded.record_for_a_minute();
    loaded.wait_until_busy().await;
    let started = Instant::now();
    testkit::signal(loaded.app.process_id(), "-TERM");
    let answer = profile.await.unwrap();
    assert_eq!(answer.status(), 200);
    let recorded = Profile::decode_gzip(&answer.bytes().await.unwrap());
    assert!(recorded.duration_nanos < 30_000_000_000, "until the signal: {}", recorded.duration_nanos);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[tokio::test]
async fn profiles_are_for_holders_of_the_service_token_on_the_operations_port() {
    let app = App::start().await;
    let token = std::fs::read_to_string(app.folder.path().join("service-token")).unwrap();
    let ann = Caller::register(&app, "ann").await;
    let http = reqwest::Client::new();
    for path in [CPU, HEAP] {
        let url = format!("{}{path}?seconds=1", app.ops);
        for bad in [None, Some(""), Some("wrong"), Some(ann.token.as_str())] {
            let mut request = http.get(&url);
            if let Some(bad) = bad {
                request = request.bearer_auth(bad);
            }
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 401, "{path} {bad:?}");
            assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        }
        let public = http.get(format!("{}{path}", app.url)).bearer_auth(token.trim()).send().await.unwrap();
        assert_eq!(public.status(), 404, "{path} on the public port");
    }
}

#[tokio::test]
async fn a_malformed_parameter_is_answered_with_one_line() {
    let app = App::start().await;
    let token = std::fs::read_to_string(app.folder.path().join("service-token")).unwrap();
    let http = reqwest::Client::new();
    for query in ["seconds=0", "seconds=61", "seconds=ten", "seconds=", "seconds=-1", "seconds=1.5"] {
        let request = http.get(format!("{}{CPU}?{query}", app.ops)).bearer_auth(token.trim());
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 400, "{query}");
        let body = answer.text().await.unwrap();
        assert_eq!(body, "seconds: expected a whole number from 1 to 60\n", "{query}");
    }
    for (path, query) in [(CPU, "format=svg"), (CPU, "second=1"), (HEAP, "seconds=1"), (HEAP, "format=svg")] {
        let request = http.get(format!("{}{path}?{query}", app.ops)).bearer_auth(token.trim());
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 400, "{path}?{query}");
        assert_eq!(answer.text().await.unwrap().lines().count(), 1, "{path}?{query}");
    }
}

#[cfg(not(feature = "heap-profiles"))]
#[tokio::test]
async fn a_program_without_heap_profiles_says_how_to_build_one_with_them() {
    let loaded = Loaded::start().await;
    let answer = loaded.get(HEAP).await;
    assert_eq!(answer.status(), 501);
    assert!(answer.text().await.unwrap().contains("--features heap-profiles"));
}

/// A story of a build with the feature; `make test-profiles` runs it.
#[cfg(feature = "heap-profiles")]
#[tokio::test]
async fn a_heap_profile_names_the_functions_that_hold_memory() {
    // Every 4 KiB instead of every 512 KiB, as little is held here.
    let loaded = Loaded::start_with(&[("MALLOC_CONF", "prof:true,lg_prof_sample:12")]).await;
    let answer = loaded.get(HEAP).await;
    assert_eq!(answer.status(), 200);
    let profile = Profile::decode_gzip(&answer.bytes().await.unwrap());
    assert_eq!(profile.values(), [("inuse_space", "bytes")]);
    let held: i64 = profile.sample.iter().map(|sample| sample.value[0]).sum();
    let resident = i64::try_from(loaded.app.resident_bytes()).unwrap();
    assert!((100_000..2 * resident).contains(&held), "{held} bytes held, {resident} resident");
    profile.assert_names_ours();
    assert!(!profile.functions().iter().any(|name| name.starts_with("_rjem_")), "the allocator itself");

    let answer = loaded.get(&format!("{HEAP}?format=flamegraph")).await;
    assert_eq!(answer.headers()["content-type"], "image/svg+xml");
    assert!(answer.text().await.unwrap().contains(" bytes</text>"));
    let cpu = loaded.get(&format!("{CPU}?seconds=1")).await;
    Profile::decode_gzip(&cpu.bytes().await.unwrap()).assert_names_ours();
}

#[cfg(feature = "heap-profiles")]
#[tokio::test]
async fn a_program_that_was_started_without_heap_profiles_says_how_to_start_it() {
    let loaded = Loaded::start().await;
    let answer = loaded.get(HEAP).await;
    assert_eq!(answer.status(), 501);
    assert!(answer.text().await.unwrap().contains("MALLOC_CONF=prof:true"));
}
