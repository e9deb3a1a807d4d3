//! What nobody may read in a log, in a metric or in an error: passwords, tokens, keys, and what people write. The real
//! program runs with everything traced, each of these goes through it, and then nothing that it said may hold one.

use std::{
    fs::File,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use testkit::eventually;
use tokio::process::Command;
use tokio_tungstenite::tungstenite::Message;

use crate::{app::App, device::Device, person::Person, stack};

/// Our own crates say everything, the others what they say at debug.
const EVERYTHING: &str = "debug,tidings=trace,auth=trace,dialog=trace,counter=trace,gateway=trace,db=trace,\
    events=trace,access=trace,telemetry=trace,proto=trace,wake=trace";
const PASSWORD: &str = "canary-password-7d1f";
const NEW_PASSWORD: &str = "canary-renewed-2b9c";
const WRONG_PASSWORD: &str = "canary-mistyped-55aa";
const TEXT: &str = "canary-text-c0ffee";
const DATABASE_PASSWORD: &str = "canary-database-e41b";

const REGISTER: &str =
    "mutation($i: RegisterInput!) { register(input: $i) { accessToken refreshToken user { id } } }";
const LOGIN: &str = "mutation($i: LoginInput!) { login(input: $i) { accessToken refreshToken user { id } } }";
const REFRESH: &str =
    "mutation($t: String!) { refreshSession(refreshToken: $t) { accessToken refreshToken user { id } } }";
const SEND: &str = "mutation($i: SendMessageInput!) { sendMessage(input: $i) { id text } }";

/// A program under watch, with all that it has said and all that it must not have said.
struct Watched {
    app: App,
    http: reqwest::Client,
    /// Bodies of answers that are errors.
    errors: String,
    secrets: Vec<(String, String)>,
}

impl Watched {
    fn keep(&mut self, name: &str, secret: &str) {
        assert!(secret.len() >= 12, "{name} is too short to be looked for");
        self.secrets.push((name.to_owned(), secret.to_owned()));
    }

    /// Asks, and keeps what an error says.
    async fn ask(&mut self, token: Option<&str>, body: Value) -> Value {
        let mut request = self.http.post(format!("{}/graphql", self.app.url)).json(&body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        if let Some(errors) = answer.get("errors") {
            self.errors += &errors.to_string();
        }
        answer
    }

    /// Signs in by one of the mutations that do; the tokens are secrets from then on.
    async fn sign_in(&mut self, document: &str, variables: Value, what: &str) -> Person {
        let answer = self.ask(None, json!({"query": document, "variables": variables})).await;
        let session =
            answer["data"].as_object().unwrap_or_else(|| panic!("{answer}")).values().next().unwrap().clone();
        let text = |name: &str| session[name].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        let (token, refresh_token) = (text("accessToken"), text("refreshToken"));
        self.keep(&format!("the access token of {what}"), token.rsplit('.').next().unwrap());
        self.keep(&format!("the refresh token of {what}"), &refresh_token);
        let id = session["user"]["id"].as_str().unwrap().to_owned();
        Person { id, token, refresh_token, url: self.app.url.clone(), http: self.http.clone() }
    }

    /// Everything that was asked for must have happened: otherwise nothing is proved.
    async fn holds_back(self, log: &Path) {
        let metrics = reqwest::get(format!("{}/metrics", self.app.ops)).await.unwrap().text().await.unwrap();
        let (said, secrets, errors) = (self.app.said.clone(), self.secrets, self.errors);
        let _folder = self.app.stop().await;
        let log = std::fs::read_to_string(log).unwrap();
        assert!(log.contains("TRACE") || log.contains("DEBUG"), "everything is traced");
        assert!(log.lines().count() > 100, "{} lines are not everything", log.lines().count());
        let said = said.lock().unwrap().clone();
        for (place, text) in
            [("the log", &log), ("standard output", &said), ("/metrics", &metrics), ("errors", &errors)]
        {
            for (name, secret) in &secrets {
                let line = text.lines().find(|line| line.contains(secret.as_str()));
                assert!(line.is_none(), "{name} is in {place}: {}", line.unwrap());
            }
        }
    }
}

#[tokio::test]
async fn what_is_secret_is_in_no_log_no_metric_and_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().join("log");
    let app =
        App::start_saying(folder, &[("RUST_LOG", EVERYTHING)], File::create(&log).unwrap().into()).await;
    let mut watched =
        Watched { app, http: reqwest::Client::new(), errors: String::new(), secrets: Vec::new() };
    for (name, secret) in [
        ("a password", PASSWORD),
        ("a new password", NEW_PASSWORD),
        ("a mistyped password", WRONG_PASSWORD),
        ("a text", TEXT),
    ] {
        watched.keep(name, secret);
    }
    let secret = |name: &str| std::fs::read_to_string(watched.app.folder.path().join(name)).unwrap();
    let (token, key) = (secret("service-token"), secret("signing-key.pem"));
    watched.keep("the service token", token.trim());
    let key = key.lines().find(|line| !line.starts_with('-') && line.len() > 20).unwrap();
    watched.keep("the signing key", key);

    let ann = watched.sign_in(REGISTER, json!({"i": {"login": "ann", "password": PASSWORD}}), "ann").await;
    let bob = watched.sign_in(REGISTER, json!({"i": {"login": "bob", "password": PASSWORD}}), "bob").await;
    people_talk(&mut watched, &ann, &bob).await;
    sessions_come_and_go(&mut watched, &bob).await;
    requests_go_wrong(&mut watched, &ann).await;
    watched.holds_back(&log).await;
}

/// Texts through every way that they take, sockets included.
async fn people_talk(watched: &mut Watched, ann: &Person, bob: &Person) {
    let dialog = ann.create_group(&[bob], "two").await;
    let mut phone = Device::connect(bob).await;
    let live = "subscription($d: ID!) { messages(dialogId: $d) { kind version message { text } } }";
    phone.subscribe("m", live, json!({"d": dialog})).await;
    phone.frame("m", "messages").await;
    let input = json!({"i": {"dialogId": dialog, "text": TEXT, "clientKey": "one"}});
    let sent = ann.data(SEND, input.clone()).await;
    assert_eq!(sent["sendMessage"]["text"], TEXT);
    while phone.frame("m", "messages").await["message"]["text"] != TEXT {}
    let message = sent["sendMessage"]["id"].as_str().unwrap();
    let history = "query($d: ID!) { dialog(id: $d) { messages { nodes { text } } lastMessage { text } } }";
    assert!(bob.data(history, json!({"d": dialog})).await.to_string().contains(TEXT));
    bob.read(&dialog, Some(message)).await;
    phone.subscribe("q", SEND, input).await;
    phone.hear_of("q").await;
    ann.data("mutation($m: ID!) { deleteMessage(id: $m) { id } }", json!({"m": message})).await;
    let long = format!("{TEXT}{}", "x".repeat(4_000));
    for (dialog, text) in [
        (dialog.as_str(), long.as_str()),
        (bob.id.as_str(), TEXT),
        ("nonsense", TEXT),
        (dialog.as_str(), "\u{7}"),
    ] {
        let variables = json!({"i": {"dialogId": dialog, "text": text}});
        let refused = watched.ask(Some(&ann.token), json!({"query": SEND, "variables": variables})).await;
        assert!(refused.get("errors").is_some(), "{refused}");
    }
}

/// Tokens of every age.
async fn sessions_come_and_go(watched: &mut Watched, bob: &Person) {
    for (login, password) in [("ann", WRONG_PASSWORD), ("nobody", WRONG_PASSWORD)] {
        let wrong = json!({"query": LOGIN, "variables": {"i": {"login": login, "password": password}}});
        assert!(watched.ask(None, wrong).await.get("errors").is_some());
    }
    let taken = json!({"query": REGISTER, "variables": {"i": {"login": "ann", "password": WRONG_PASSWORD}}});
    assert!(watched.ask(None, taken).await.get("errors").is_some());
    let second = watched.sign_in(REFRESH, json!({"t": bob.refresh_token}), "a refresh").await;
    let third = watched.sign_in(REFRESH, json!({"t": second.refresh_token}), "a second refresh").await;
    let reused = json!({"query": REFRESH, "variables": {"t": bob.refresh_token}});
    assert!(watched.ask(None, reused).await.get("errors").is_some(), "a used token ends the session");
    eventually("the session's token is refused", || third.is_refused()).await;
    let again = watched.sign_in(LOGIN, json!({"i": {"login": "bob", "password": PASSWORD}}), "a login").await;
    let change = "mutation($o: String!, $n: String!) { changePassword(old: $o, new: $n) { accessToken refreshToken user { id } } }";
    let wrong = json!({"query": change, "variables": {"o": WRONG_PASSWORD, "n": NEW_PASSWORD}});
    assert!(watched.ask(Some(&again.token), wrong).await.get("errors").is_some());
    let changed = again.data(change, json!({"o": PASSWORD, "n": NEW_PASSWORD})).await;
    for name in ["accessToken", "refreshToken"] {
        let token = changed["changePassword"][name].as_str().unwrap();
        watched.keep(name, token.rsplit('.').next().unwrap());
    }
    watched
        .sign_in(LOGIN, json!({"i": {"login": "bob", "password": NEW_PASSWORD}}), "the new password")
        .await;
}

impl Person {
    /// Whether this person's token is refused.
    async fn is_refused(&self) -> bool {
        self.ask("{ me { id } }", json!({})).await["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    }
}

/// Secrets in the wrong place, on every transport.
async fn requests_go_wrong(watched: &mut Watched, ann: &Person) {
    let literal = |field: &str| {
        format!(
            "mutation {{ {field}(input: {{ login: \"ann\", password: \"{PASSWORD}\" }}) {{ accessToken }} }}"
        )
    };
    for body in [
        json!({"query": literal("login").replace("accessToken", "nothing")}),
        json!({"query": literal("logon")}),
        json!({"query": format!("{} }}", literal("login"))}),
        json!({"query": literal("login"), "operationName": PASSWORD.len()}),
        json!({"query": LOGIN, "variables": {"i": {"login": "ann", "password": [PASSWORD]}}}),
        json!({"query": LOGIN, "variables": {"i": {"login": "ann", "password": PASSWORD, "other": PASSWORD}}}),
        json!({"query": LOGIN, "variables": PASSWORD}),
        json!({"query": LOGIN, "variables": {"i": PASSWORD}}),
        json!({"query": REFRESH, "variables": {"t": {"token": ann.refresh_token}}}),
    ] {
        let refused = watched.ask(Some(&ann.token), body.clone()).await;
        assert!(refused.get("errors").is_some(), "{body}: {refused}");
    }
    let broken = format!("{}x", ann.token);
    watched.ask(Some(&broken), json!({"query": "{ me { id } }"})).await;
    let url = format!("{}/graphql", watched.app.url);
    let get = [("query", literal("login")), ("extensions", PASSWORD.to_owned())];
    let url = reqwest::Url::parse_with_params(&url, get).unwrap();
    watched.errors +=
        &watched.http.get(url).bearer_auth(&ann.token).send().await.unwrap().text().await.unwrap();
    for frame in [
        format!(r#"{{"type":"connection_init","payload":{{"authorization":"Bearer {broken}"}}}}"#),
        format!(r#"{{"type":"connection_init","payload":"{}"}}"#, ann.token),
        format!(r#"{{"type":"{PASSWORD}"}}"#),
        PASSWORD.to_owned(),
    ] {
        let mut device = Device::open(&ann.url).await;
        device.say_raw(Message::text(frame)).await;
        watched.errors += &device.closed().await.1;
    }
    let mut device = Device::connect(ann).await;
    device.subscribe("1", LOGIN, json!({"i": {"login": PASSWORD}})).await;
    watched.errors += &device.hear_of("1").await.to_string();
}

#[tokio::test]
async fn a_databases_password_is_in_no_log_no_error_and_no_help() {
    let nobody = format!("postgres://ann:{DATABASE_PASSWORD}@127.0.0.1:1/auth");
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &["keygen"], &[]).await;
    let strange = nobody.replace("postgres:", "mysql:");
    let wrong = nobody.replace(":1/", ":port/");
    for url in [nobody.as_str(), strange.as_str(), wrong.as_str()] {
        let one = run(folder.path(), &["auth"], &[("DATABASE_URL", url), ("DATABASE_DIRECT_URL", url)]).await;
        let all = [("AUTH_DATABASE_URL", url), ("DIALOG_DATABASE_URL", url), ("COUNTER_DATABASE_URL", url)];
        let migrated = run(folder.path(), &["migrate"], &all).await;
        let lonely = run(folder.path(), &["serve"], &[("AUTH_DATABASE_URL", url)]).await;
        for output in [one, migrated, lonely] {
            assert!(!output.status.success());
            keeps_quiet(&output);
        }
    }
    for command in ["serve", "auth", "migrate"] {
        let settings = ["DATABASE_URL", "DATABASE_DIRECT_URL", "AUTH_DATABASE_URL", "DIALOG_DATABASE_URL"];
        let settings = settings.map(|name| (name, nobody.as_str()));
        let help = run(folder.path(), &[command, "--help"], &settings).await;
        assert!(String::from_utf8_lossy(&help.stdout).contains("DATABASE_URL"));
        keeps_quiet(&help);
    }
    let Ok(server) = std::env::var("TEST_POSTGRES_URL") else { return };
    let Some((before, after)) = server.split_once('@').filter(|(before, _)| before.matches(':').count() == 1)
    else {
        return;
    };
    let with_password = format!("{before}:{DATABASE_PASSWORD}@{after}");
    let databases = stack::databases(&server).await;
    let url = |role: &str| {
        format!(
            "{}/{}",
            with_password.rsplit_once('/').unwrap().0,
            databases[role].rsplit_once('/').unwrap().1
        )
    };
    let urls = [
        ("AUTH_DATABASE_URL", url("auth")),
        ("DIALOG_DATABASE_URL", url("dialog")),
        ("COUNTER_DATABASE_URL", url("counter")),
    ];
    let urls: Vec<(&str, &str)> = urls.iter().map(|(name, url)| (*name, url.as_str())).collect();
    let migrated = run(folder.path(), &["migrate"], &urls).await;
    keeps_quiet(&migrated);
}

/// Runs a command with everything traced, for three seconds at most: some wait for their database.
async fn run(folder: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new("timeout");
    command
        .arg("3")
        .arg(env!("CARGO_BIN_EXE_tidings"))
        .args(arguments)
        .env_clear()
        .envs(settings.iter().copied());
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("RUST_LOG", EVERYTHING).env("LISTEN", "127.0.0.1:0").env("OPS_LISTEN", "127.0.0.1:0");
    command.env("DATA_DIR", folder).env("KAFKA_URL", "kafka://127.0.0.1:1");
    command.env("SERVICE_TOKEN_FILE", folder.join("service-token"));
    command.env("SIGNING_KEY_FILE", folder.join("signing-key.pem"));
    command.stdin(Stdio::null()).kill_on_drop(true);
    tokio::time::timeout(Duration::from_secs(20), command.output()).await.unwrap().unwrap()
}

#[track_caller]
fn keeps_quiet(output: &Output) {
    for text in [&output.stdout, &output.stderr] {
        let text = String::from_utf8_lossy(text);
        let line = text.lines().find(|line| line.contains(DATABASE_PASSWORD));
        assert!(line.is_none(), "{}", line.unwrap());
    }
}
