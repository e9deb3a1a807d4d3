//! Secrets must not appear in logs, metrics or errors: passwords, tokens, keys and message texts. The
//! program runs with full tracing, handles each of them, and then all of its output is searched for
//! them.

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

use crate::{app::App, caller::Caller, socket_client::SocketClient, stack};

/// Log filter: own crates at trace, dependencies at debug.
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

/// The program under test, with the secrets that it handles and the errors that it returns.
struct SecretsTest {
    app: App,
    http: reqwest::Client,
    /// Bodies of error responses.
    errors: String,
    secrets: Vec<(String, String)>,
}

impl SecretsTest {
    fn add_secret(&mut self, name: &str, secret: &str) {
        assert!(secret.len() >= 12, "{name} is too short to search for");
        self.secrets.push((name.to_owned(), secret.to_owned()));
    }

    /// Executes an operation and records its errors.
    async fn execute(&mut self, token: Option<&str>, body: Value) -> Value {
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

    /// Signs in with a mutation that returns a session, and adds its tokens to the secrets.
    async fn sign_in(&mut self, document: &str, variables: Value, what: &str) -> Caller {
        let answer = self.execute(None, json!({"query": document, "variables": variables})).await;
        let session =
            answer["data"].as_object().unwrap_or_else(|| panic!("{answer}")).values().next().unwrap().clone();
        let text = |name: &str| session[name].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        let token = text("accessToken");
        let refresh_token = text("refreshToken");
        self.add_secret(&format!("the access token of {what}"), token.rsplit('.').next().unwrap());
        self.add_secret(&format!("the refresh token of {what}"), &refresh_token);
        let id = session["user"]["id"].as_str().unwrap().to_owned();
        Caller { id, token, refresh_token, url: self.app.url.clone(), http: self.http.clone() }
    }

    /// Asserts that no output contains a secret. The log must be complete: an empty log would prove nothing.
    async fn assert_no_secret(self, log: &Path) {
        let metrics = reqwest::get(format!("{}/metrics", self.app.ops)).await.unwrap().text().await.unwrap();
        let stdout = self.app.stdout.clone();
        let secrets = self.secrets;
        let errors = self.errors;
        let _folder = self.app.stop().await;
        let log = std::fs::read_to_string(log).unwrap();
        assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log has trace and debug lines");
        assert!(log.lines().count() > 100, "the log has only {} lines", log.lines().count());
        let stdout = stdout.lock().clone();
        for (output, text) in
            [("the log", &log), ("standard output", &stdout), ("/metrics", &metrics), ("errors", &errors)]
        {
            for (name, secret) in &secrets {
                let line = text.lines().find(|line| line.contains(secret.as_str()));
                assert!(line.is_none(), "{name} is in {output}: {}", line.unwrap());
            }
        }
    }
}

#[tokio::test]
async fn secrets_are_in_no_log_no_metric_and_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().join("log");
    let app =
        App::start_with_log(folder, &[("RUST_LOG", EVERYTHING)], File::create(&log).unwrap().into()).await;
    let mut test =
        SecretsTest { app, http: reqwest::Client::new(), errors: String::new(), secrets: Vec::new() };
    for (name, secret) in [
        ("a password", PASSWORD),
        ("a new password", NEW_PASSWORD),
        ("a mistyped password", WRONG_PASSWORD),
        ("a text", TEXT),
    ] {
        test.add_secret(name, secret);
    }
    let secret = |name: &str| std::fs::read_to_string(test.app.folder.path().join(name)).unwrap();
    let token = secret("service-token");
    let key = secret("signing-key.pem");
    test.add_secret("the service token", token.trim());
    let key = key.lines().find(|line| !line.starts_with('-') && line.len() > 20).unwrap();
    test.add_secret("the signing key", key);

    let ann = test.sign_in(REGISTER, json!({"i": {"login": "ann", "password": PASSWORD}}), "ann").await;
    let bob = test.sign_in(REGISTER, json!({"i": {"login": "bob", "password": PASSWORD}}), "bob").await;
    send_and_read_messages(&mut test, &ann, &bob).await;
    create_and_revoke_sessions(&mut test, &bob).await;
    send_invalid_requests(&mut test, &ann).await;
    test.assert_no_secret(&log).await;
}

/// Sends message texts through every path, including sockets and errors.
async fn send_and_read_messages(test: &mut SecretsTest, ann: &Caller, bob: &Caller) {
    let dialog = ann.create_group(&[bob], "two").await;
    let mut phone = SocketClient::connect(bob).await;
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
    bob.mark_read(&dialog, Some(message)).await;
    phone.subscribe("q", SEND, input).await;
    phone.receive_for("q").await;
    ann.data("mutation($m: ID!) { deleteMessage(id: $m) { id } }", json!({"m": message})).await;
    let long = format!("{TEXT}{}", "x".repeat(4_000));
    for (dialog, text) in [
        (dialog.as_str(), long.as_str()),
        (bob.id.as_str(), TEXT),
        ("nonsense", TEXT),
        (dialog.as_str(), "\u{7}"),
    ] {
        let variables = json!({"i": {"dialogId": dialog, "text": text}});
        let rejected = test.execute(Some(&ann.token), json!({"query": SEND, "variables": variables})).await;
        assert!(rejected.get("errors").is_some(), "{rejected}");
    }
}

/// Uses valid, reused and revoked tokens, and wrong passwords.
async fn create_and_revoke_sessions(test: &mut SecretsTest, bob: &Caller) {
    for (login, password) in [("ann", WRONG_PASSWORD), ("unknown", WRONG_PASSWORD)] {
        let wrong = json!({"query": LOGIN, "variables": {"i": {"login": login, "password": password}}});
        assert!(test.execute(None, wrong).await.get("errors").is_some());
    }
    let taken = json!({"query": REGISTER, "variables": {"i": {"login": "ann", "password": WRONG_PASSWORD}}});
    assert!(test.execute(None, taken).await.get("errors").is_some());
    let second = test.sign_in(REFRESH, json!({"t": bob.refresh_token}), "a refresh").await;
    let third = test.sign_in(REFRESH, json!({"t": second.refresh_token}), "a second refresh").await;
    let reused = json!({"query": REFRESH, "variables": {"t": bob.refresh_token}});
    assert!(
        test.execute(None, reused).await.get("errors").is_some(),
        "reuse of a refresh token revokes the session"
    );
    eventually("the access token of the revoked session is rejected", || third.is_rejected()).await;
    let again = test.sign_in(LOGIN, json!({"i": {"login": "bob", "password": PASSWORD}}), "a login").await;
    let change = "mutation($o: String!, $n: String!) {
        changePassword(old: $o, new: $n) { accessToken refreshToken user { id } } }";
    let wrong = json!({"query": change, "variables": {"o": WRONG_PASSWORD, "n": NEW_PASSWORD}});
    assert!(test.execute(Some(&again.token), wrong).await.get("errors").is_some());
    let changed = again.data(change, json!({"o": PASSWORD, "n": NEW_PASSWORD})).await;
    for name in ["accessToken", "refreshToken"] {
        let token = changed["changePassword"][name].as_str().unwrap();
        test.add_secret(name, token.rsplit('.').next().unwrap());
    }
    test.sign_in(LOGIN, json!({"i": {"login": "bob", "password": NEW_PASSWORD}}), "the new password").await;
}

impl Caller {
    /// Returns true when the access token is rejected.
    async fn is_rejected(&self) -> bool {
        self.execute("{ me { id } }", json!({})).await["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    }
}

/// Sends secrets in malformed requests, on every transport.
async fn send_invalid_requests(test: &mut SecretsTest, ann: &Caller) {
    let literal = |field: &str| {
        format!(
            "mutation {{ {field}(input: {{ login: \"ann\", password: \"{PASSWORD}\" }}) {{ accessToken }} }}"
        )
    };
    let unknown_field = json!({"login": "ann", "password": PASSWORD, "other": PASSWORD});
    for body in [
        json!({"query": literal("login").replace("accessToken", "nothing")}),
        json!({"query": literal("logon")}),
        json!({"query": format!("{} }}", literal("login"))}),
        json!({"query": literal("login"), "operationName": PASSWORD.len()}),
        json!({"query": LOGIN, "variables": {"i": {"login": "ann", "password": [PASSWORD]}}}),
        json!({"query": LOGIN, "variables": {"i": unknown_field}}),
        json!({"query": LOGIN, "variables": PASSWORD}),
        json!({"query": LOGIN, "variables": {"i": PASSWORD}}),
        json!({"query": REFRESH, "variables": {"t": {"token": ann.refresh_token}}}),
    ] {
        let rejected = test.execute(Some(&ann.token), body.clone()).await;
        assert!(rejected.get("errors").is_some(), "{body}: {rejected}");
    }
    let broken = format!("{}x", ann.token);
    test.execute(Some(&broken), json!({"query": "{ me { id } }"})).await;
    let url = format!("{}/graphql", test.app.url);
    let get = [("query", literal("login")), ("extensions", PASSWORD.to_owned())];
    let url = reqwest::Url::parse_with_params(&url, get).unwrap();
    test.errors += &test.http.get(url).bearer_auth(&ann.token).send().await.unwrap().text().await.unwrap();
    for frame in [
        format!(r#"{{"type":"connection_init","payload":{{"authorization":"Bearer {broken}"}}}}"#),
        format!(r#"{{"type":"connection_init","payload":"{}"}}"#, ann.token),
        format!(r#"{{"type":"{PASSWORD}"}}"#),
        PASSWORD.to_owned(),
    ] {
        let mut socket = SocketClient::open(&ann.url).await;
        socket.send_raw(Message::text(frame)).await;
        test.errors += &socket.wait_for_close().await.1;
    }
    let mut socket = SocketClient::connect(ann).await;
    socket.subscribe("1", LOGIN, json!({"i": {"login": PASSWORD}})).await;
    test.errors += &socket.receive_for("1").await.to_string();
}

#[tokio::test]
async fn a_database_password_is_in_no_log_no_error_and_no_help() {
    let unreachable = format!("postgres://ann:{DATABASE_PASSWORD}@127.0.0.1:1/auth");
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &["keygen"], &[]).await;
    let unsupported = unreachable.replace("postgres:", "mysql:");
    let wrong = unreachable.replace(":1/", ":port/");
    for url in [unreachable.as_str(), unsupported.as_str(), wrong.as_str()] {
        let one = run(folder.path(), &["auth"], &[("DATABASE_URL", url), ("DATABASE_DIRECT_URL", url)]).await;
        let all = [("AUTH_DATABASE_URL", url), ("DIALOG_DATABASE_URL", url), ("COUNTER_DATABASE_URL", url)];
        let migrated = run(folder.path(), &["migrate"], &all).await;
        let served = run(folder.path(), &["serve"], &[("AUTH_DATABASE_URL", url)]).await;
        for output in [one, migrated, served] {
            assert!(!output.status.success());
            assert_no_password(&output);
        }
    }
    for command in ["serve", "auth", "migrate"] {
        let settings = ["DATABASE_URL", "DATABASE_DIRECT_URL", "AUTH_DATABASE_URL", "DIALOG_DATABASE_URL"];
        let settings = settings.map(|name| (name, unreachable.as_str()));
        let help = run(folder.path(), &[command, "--help"], &settings).await;
        assert!(String::from_utf8_lossy(&help.stdout).contains("DATABASE_URL"));
        assert_no_password(&help);
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
    assert_no_password(&migrated);
}

/// Runs a command with full tracing, for at most 3 s: some wait for their database.
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
fn assert_no_password(output: &Output) {
    for text in [&output.stdout, &output.stderr] {
        let text = String::from_utf8_lossy(text);
        let line = text.lines().find(|line| line.contains(DATABASE_PASSWORD));
        assert!(line.is_none(), "{}", line.unwrap());
    }
}
