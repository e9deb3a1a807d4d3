//! Every setting, as a flag and as an environment variable; the doc comments are the `--help`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand};
use gateway::origins::Origins;

use crate::{limits::RateLimits, upstream::Upstream, url::Url};

/// A backend for conversations whose unread counts are exact and live.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Without a command: serve.
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: Serve,
    #[command(flatten)]
    pub log: Log,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in this process, on SQLite unless told otherwise: the default
    Serve(Box<Serve>),
    /// Run the auth service
    Auth(Auth),
    /// Run the dialog service
    Dialog(Dialog),
    /// Run the counter service
    Counter(Counter),
    /// Run the gateway
    Gateway(Box<GatewayRole>),
    /// Bring the databases up to date and make the topics
    Migrate(Migrate),
    /// Make the signing key and the service token, or add a new signing key before the present one
    Keygen(Keygen),
    /// Ask the role that runs beside it whether it is ready: exit 0 where it is, 1 where not
    Healthcheck(Healthcheck),
}

/// What every command says about itself.
#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
pub struct Log {
    /// How log lines look: text or json [default: text on a terminal, else json]
    #[arg(long = "log-format", env = "LOG_FORMAT", global = true, hide_default_value = true)]
    pub format: Option<telemetry::log::Format>,
    /// Which log lines are written, as tracing's EnvFilter reads it
    #[arg(long = "log-filter", env = "RUST_LOG", global = true, default_value = "info")]
    pub filter: String,
}

/// The settings of `serve`.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Address of the service: HTTP and WebSocket
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080", value_parser = address)]
    pub listen: SocketAddr,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "OPS_LISTEN", default_value = "127.0.0.1:9090", value_parser = address)]
    pub ops_listen: SocketAddr,
    /// Folder of the databases and the keys; made where it does not exist
    #[arg(long, env = "DATA_DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    #[command(flatten)]
    pub databases: Databases,
    #[command(flatten)]
    pub log: Kafka,
    #[command(flatten)]
    pub cache: Redis,
    #[command(flatten)]
    pub keys: Keys,
    #[command(flatten)]
    pub tokens: Tokens,
    #[command(flatten)]
    pub gateway: Gateway,
    /// How old a PENDING message is when its outcome is asked from the counter
    #[arg(long, env = "SAGA_DEADLINE", default_value = "10m", value_parser = duration)]
    pub saga_deadline: Duration,
    /// Over how long open sockets are closed at the end; the process exits within this and ten seconds
    #[arg(long, env = "DRAIN_WINDOW", default_value = "10s", value_parser = duration)]
    pub drain_window: Duration,
}

/// The databases of all services: none, for SQLite in DATA_DIR, or all three.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Engines")]
pub struct Databases {
    /// Database of auth: postgres://… [default: SQLite in DATA_DIR]
    #[arg(long, env = "AUTH_DATABASE_URL", hide_env_values = true, requires_all = ["dialog_database_url", "counter_database_url"])]
    pub auth_database_url: Option<Url>,
    /// Database of dialog: postgres://… [default: SQLite in DATA_DIR]
    #[arg(long, env = "DIALOG_DATABASE_URL", hide_env_values = true, requires_all = ["auth_database_url", "counter_database_url"])]
    pub dialog_database_url: Option<Url>,
    /// Database of counter: postgres://… [default: SQLite in DATA_DIR]
    #[arg(long, env = "COUNTER_DATABASE_URL", hide_env_values = true, requires_all = ["auth_database_url", "dialog_database_url"])]
    pub counter_database_url: Option<Url>,
}

/// The log on many machines.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Engines")]
pub struct Kafka {
    /// Log of events: kafka://host:port,… [default: the outbox tables of this process]
    #[arg(long, env = "KAFKA_URL")]
    pub kafka_url: Option<String>,
}

/// What processes of one role share on many machines.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Engines")]
pub struct Redis {
    /// Cache of unread counts, and rate limits that gateways share: redis://host:port, of one counter database alone
    /// [default: bounded maps in each process]
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<Url>,
}

/// What the three services have in common.
#[derive(Debug, Clone, Args)]
pub struct Role {
    /// Address of the service: gRPC [default: 127.0.0.1, auth on 50051, dialog on 50052, counter on 50053]
    #[arg(long, env = "LISTEN", value_parser = address)]
    pub listen: Option<SocketAddr>,
    /// Address of /healthz, /readyz and /metrics [default: 127.0.0.1, auth on 9091, dialog on 9092, counter on 9093]
    #[arg(long, env = "OPS_LISTEN", value_parser = address)]
    pub ops_listen: Option<SocketAddr>,
    /// Database of the service: postgres://…
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Url,
    /// The same database without a pooler before it, for migrations
    #[arg(long, env = "DATABASE_DIRECT_URL", hide_env_values = true)]
    pub database_direct_url: Option<Url>,
    #[command(flatten)]
    pub peer: PeerRole,
    /// Name of this process among those of its role, the same after a restart: it gets its share of the log back at once,
    /// where nameless ones wait fifteen seconds for one that was killed [default: nameless]
    #[arg(long, env = "INSTANCE", value_parser = instance)]
    pub instance: Option<String>,
    /// Whether gRPC reflection is given: on or off
    #[arg(long, env = "INTROSPECTION", value_name = "on|off", default_value = "off", value_parser = switch, action = ArgAction::Set)]
    pub introspection: bool,
}

/// What everything that is one of many processes has in common.
#[derive(Debug, Clone, Args)]
pub struct PeerRole {
    /// Log of events: kafka://host:port,…
    #[arg(long, env = "KAFKA_URL")]
    pub kafka_url: String,
    /// File of the token with which the services call each other
    #[arg(long, env = "SERVICE_TOKEN_FILE")]
    pub service_token_file: PathBuf,
    /// Over how long a gateway closes its sockets at the end; the process exits within this and ten seconds
    #[arg(long, env = "DRAIN_WINDOW", default_value = "10s", value_parser = duration)]
    pub drain_window: Duration,
}

/// The settings of `auth`.
#[derive(Debug, Clone, Args)]
pub struct Auth {
    #[command(flatten)]
    pub role: Role,
    /// File of the keys that sign access tokens
    #[arg(long, env = "SIGNING_KEY_FILE")]
    pub signing_key_file: PathBuf,
    #[command(flatten)]
    pub tokens: Tokens,
}

/// The settings of `dialog`.
#[derive(Debug, Clone, Args)]
pub struct Dialog {
    #[command(flatten)]
    pub role: Role,
    /// Where auth is: http://host:port, several with commas
    #[arg(long, env = "AUTH_URL")]
    pub auth_url: String,
    /// Where counter is: http://host:port, several with commas
    #[arg(long, env = "COUNTER_URL")]
    pub counter_url: String,
    /// Issuer that access tokens name
    #[arg(long, env = "TOKEN_ISSUER", default_value = "tidings")]
    pub token_issuer: String,
    /// How old a PENDING message is when its outcome is asked from the counter
    #[arg(long, env = "SAGA_DEADLINE", default_value = "10m", value_parser = duration)]
    pub saga_deadline: Duration,
}

/// The settings of `counter`.
#[derive(Debug, Clone, Args)]
pub struct Counter {
    #[command(flatten)]
    pub role: Role,
    #[command(flatten)]
    pub cache: Redis,
    /// Where auth is: http://host:port, several with commas
    #[arg(long, env = "AUTH_URL")]
    pub auth_url: String,
    /// Where dialog is: http://host:port, several with commas
    #[arg(long, env = "DIALOG_URL")]
    pub dialog_url: String,
    /// Issuer that access tokens name
    #[arg(long, env = "TOKEN_ISSUER", default_value = "tidings")]
    pub token_issuer: String,
}

/// The settings of `gateway`.
#[derive(Debug, Clone, Args)]
pub struct GatewayRole {
    /// Address of the service: HTTP and WebSocket
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080", value_parser = address)]
    pub listen: SocketAddr,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "OPS_LISTEN", default_value = "127.0.0.1:9090", value_parser = address)]
    pub ops_listen: SocketAddr,
    #[command(flatten)]
    pub peer: PeerRole,
    /// Where auth is: http://host:port, several with commas
    #[arg(long, env = "AUTH_URL")]
    pub auth_url: String,
    /// Where dialog is: http://host:port, several with commas
    #[arg(long, env = "DIALOG_URL")]
    pub dialog_url: String,
    /// Where counter is: http://host:port, several with commas
    #[arg(long, env = "COUNTER_URL")]
    pub counter_url: String,
    #[command(flatten)]
    pub cache: Redis,
    #[command(flatten)]
    pub tokens: Tokens,
    #[command(flatten)]
    pub gateway: Gateway,
}

/// The settings of `migrate`.
#[derive(Debug, Clone, Args)]
pub struct Migrate {
    #[command(flatten)]
    pub databases: Databases,
    #[command(flatten)]
    pub log: Kafka,
}

/// Where the secrets are.
#[derive(Debug, Clone, Args)]
pub struct Keys {
    /// File of the keys that sign access tokens [default: made in DATA_DIR]
    #[arg(long, env = "SIGNING_KEY_FILE")]
    pub signing_key_file: Option<PathBuf>,
    /// File of the token with which the services call each other [default: made in DATA_DIR]
    #[arg(long, env = "SERVICE_TOKEN_FILE")]
    pub service_token_file: Option<PathBuf>,
}

/// What tokens say and how long they live.
#[derive(Debug, Clone, Args)]
pub struct Tokens {
    /// Issuer that access tokens name
    #[arg(long, env = "TOKEN_ISSUER", default_value = "tidings", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub token_issuer: String,
    /// Life of an access token [default: 1h in serve, 5m in the roles]
    #[arg(long, env = "ACCESS_TOKEN_TTL", value_parser = lifetime)]
    pub access_token_ttl: Option<Duration>,
    /// Life of a refresh token
    #[arg(long, env = "REFRESH_TOKEN_TTL", default_value = "30d", value_parser = lifetime)]
    pub refresh_token_ttl: Duration,
}

/// Who may come in, and what they are told.
#[derive(Debug, Clone, Args)]
pub struct Gateway {
    /// Origins that web pages may come from, comma-separated; `loopback` stands for every page of this machine [default:
    /// loopback in serve, none in gateway]
    #[arg(long, env = "ALLOWED_ORIGINS")]
    pub allowed_origins: Option<Origins>,
    /// Whether introspection, the IDE page and suggestions are given: on or off [default: on in serve, off in gateway]
    #[arg(long, env = "INTROSPECTION", value_name = "on|off", value_parser = switch)]
    pub introspection: Option<bool>,
    /// File of the only documents that run: a JSON object of ids and documents, or Apollo's persisted-query manifest. The
    /// introspection of the IDE page is refused too unless it is among them [default: every document runs]
    #[arg(long, env = "TRUSTED_DOCUMENTS", value_name = "FILE")]
    pub trusted_documents: Option<PathBuf>,
    /// Sockets and streams that a user may have open here
    #[arg(long, env = "MAX_SOCKETS_PER_USER", default_value = "20", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_sockets_per_user: u32,
    /// WebSockets that may be open here before their users have signed in
    #[arg(long, env = "MAX_ANONYMOUS_SOCKETS", default_value = "2000", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_anonymous_sockets: u32,
    /// Connections that may be open here at once, WebSockets included, or fewer where the system allows fewer open files; what comes beyond is answered 503
    #[arg(long, env = "MAX_CONNECTIONS", default_value = "19000", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
    #[command(flatten)]
    pub upstream: Upstream,
    #[command(flatten)]
    pub rates: RateLimits,
}

/// The settings of `keygen`.
#[derive(Debug, Clone, Args)]
pub struct Keygen {
    /// Folder for the files that have no name of their own
    #[arg(long, env = "DATA_DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    #[command(flatten)]
    pub keys: Keys,
    /// Put a new signing key before the present one, which goes on verifying
    #[arg(long)]
    pub rotate: bool,
}

/// The settings of `healthcheck`.
#[derive(Debug, Clone, Args)]
pub struct Healthcheck {
    /// Address of the role's /readyz
    #[arg(long, env = "OPS_LISTEN", default_value = "127.0.0.1:9090", value_parser = address)]
    pub ops_listen: SocketAddr,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "an address is an IP and a port, such as 127.0.0.1:8080".to_owned())
}

/// Reads `250ms`, `10s`, `5m`, `1h`, `30d`: from a millisecond to ten years.
///
/// # Errors
/// What a duration looks like.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a duration is a number from 1 with ms, s, m, h or d, such as 10s".to_owned();
    let unit = text.find(|symbol: char| !symbol.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..unit].parse().ok().filter(|number| *number > 0).ok_or_else(wrong)?;
    let unit_ms = match &text[unit..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let limit_ms = 3_650 * 86_400_000;
    let duration_ms = number.checked_mul(unit_ms).filter(|duration_ms| *duration_ms <= limit_ms);
    duration_ms.map(Duration::from_millis).ok_or_else(|| "a duration is ten years at most".to_owned())
}

/// A name as Kafka takes it for a member of a group.
fn instance(text: &str) -> Result<String, String> {
    let known = |symbol: char| symbol.is_ascii_alphanumeric() || "._-".contains(symbol);
    if (1..=64).contains(&text.len()) && text.chars().all(known) {
        return Ok(text.to_owned());
    }
    Err("a name is 1 to 64 letters, digits, dots, dashes and underscores".to_owned())
}

/// A duration of a second or more: tokens count in seconds, and one of none is born expired.
fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = duration(text)?;
    if lifetime < Duration::from_secs(1) {
        Err("a token lives a second at least".to_owned())
    } else {
        Ok(lifetime)
    }
}

/// Reads `on` or `off`.
///
/// # Errors
/// That it is one of the two.
pub fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("it is on or off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_settings_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_serves() {
        let cli = Cli::try_parse_from(["tidings", "--listen", "127.0.0.1:1234"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.serve.listen.port(), 1234);
    }

    #[test]
    fn durations_have_a_number_and_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for wrong in ["", "10", "s", "0s", "-1s", "1w", "1.5h", "10 s", "99999999999999999999s", "9999999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_instance_has_a_name_that_kafka_takes() {
        assert_eq!(instance("counter-1.eu_west"), Ok("counter-1.eu_west".to_owned()));
        assert!(instance(&"x".repeat(64)).is_ok());
        for wrong in ["", "a b", "ä", &"x".repeat(65)] {
            assert!(instance(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_token_lives_a_second_at_least() {
        assert_eq!(lifetime("1s"), Ok(Duration::from_secs(1)));
        for flag in ["--access-token-ttl", "--refresh-token-ttl"] {
            let error = Cli::try_parse_from(["tidings", flag, "999ms"]).unwrap_err().to_string();
            assert!(error.contains(flag) && error.contains("a token lives a second at least"), "{error}");
        }
    }

    #[test]
    fn a_wrong_setting_names_itself() {
        let error =
            Cli::try_parse_from(["tidings", "serve", "--introspection", "maybe"]).unwrap_err().to_string();
        assert!(
            error.contains("'maybe'") && error.contains("--introspection") && error.contains("on or off"),
            "{error}"
        );
        let error = Cli::try_parse_from(["tidings", "--listen", "localhost"]).unwrap_err().to_string();
        assert!(error.contains("--listen") && error.contains("such as 127.0.0.1:8080"), "{error}");
    }

    #[test]
    fn a_url_with_a_password_is_not_shown() {
        let cli = Cli::try_parse_from(["tidings", "serve", "--redis-url", "redis://:hunter2@cache"]).unwrap();
        assert!(!format!("{cli:?}").contains("hunter2"));
        let Some(Command::Serve(serve)) = cli.command else { panic!("it serves") };
        assert_eq!(serve.cache.redis_url.as_deref().unwrap(), "redis://:hunter2@cache");
    }

    #[test]
    fn introspection_is_on_until_it_is_switched_off() {
        let introspection = |text: &[&str]| {
            Cli::try_parse_from(["tidings"].iter().chain(text)).unwrap().serve.gateway.introspection
        };
        assert_eq!((introspection(&[]), introspection(&["--introspection", "on"])), (None, Some(true)));
        assert_eq!(introspection(&["--introspection", "off"]), Some(false));
        assert_eq!(introspection(&["--introspection=off"]), Some(false));
    }

    #[test]
    fn the_help_names_every_setting_with_its_variable_and_its_default() {
        let mut command = Cli::command();
        let help = command.render_long_help().to_string();
        command.build();
        for setting in command.get_arguments().filter(|setting| setting.get_long().is_some_and(named)) {
            let (flag, entry) = (setting.get_long().unwrap(), setting.get_help().unwrap().to_string());
            let variable =
                setting.get_env().unwrap_or_else(|| panic!("--{flag} has no variable")).to_str().unwrap();
            assert!(
                help.contains(&format!("--{flag} <")) && help.contains(&format!("[env: {variable}")),
                "--{flag}"
            );
            let default = setting.get_default_values().iter().any(|default| !default.is_empty());
            assert!(default || entry.contains("[default: "), "--{flag} has no default");
        }
    }

    #[test]
    fn urls_with_passwords_show_themselves_nowhere() {
        let urls = ["--auth-database-url", "--dialog-database-url", "--counter-database-url"];
        let url = "postgres://ann:hidden@localhost/auth";
        let cli =
            Cli::try_parse_from(["tidings"].into_iter().chain(urls.into_iter().flat_map(|name| [name, url])));
        let cli = cli.unwrap();
        assert_eq!(cli.serve.databases.auth_database_url.as_deref(), Some(url));
        assert!(!format!("{cli:?}").contains("hidden"));
        let mut command = Cli::command();
        command.build();
        for command in std::iter::once(&command).chain(command.get_subcommands()) {
            let shown = command.get_arguments().filter(|setting| {
                let name = setting.get_id().as_str();
                name.contains("database") && !setting.is_hide_env_values_set()
            });
            assert_eq!(shown.count(), 0, "{}", command.get_name());
        }
    }

    fn named(flag: &str) -> bool {
        !["help", "version"].contains(&flag)
    }
}
