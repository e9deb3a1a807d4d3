//! Tests of the command line: defaults, errors, `--help`, and secrets that it hides.

use clap::CommandFactory;

use super::{parse::token_lifetime, *};

#[test]
fn the_definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_default_command_is_serve() {
    let cli = Cli::try_parse_from(["tidings", "--listen", "127.0.0.1:1234"]).unwrap();
    assert!(cli.command.is_none());
    assert_eq!(cli.serve.listen.port(), 1234);
}

#[test]
fn the_lifetime_of_a_token_is_at_least_a_second() {
    assert_eq!(token_lifetime("1s"), Ok(Duration::from_secs(1)));
    for flag in ["--access-token-ttl", "--refresh-token-ttl"] {
        let error = Cli::try_parse_from(["tidings", flag, "999ms"]).unwrap_err().to_string();
        assert!(error.contains(flag) && error.contains("the lifetime of a token is at least 1s"), "{error}");
    }
}

#[test]
fn the_error_of_an_invalid_setting_names_the_flag_and_the_value() {
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
fn debug_output_hides_a_url_with_a_password() {
    let cli = Cli::try_parse_from(["tidings", "serve", "--redis-url", "redis://:hunter2@cache"]).unwrap();
    assert!(!format!("{cli:?}").contains("hunter2"));
    let Some(Command::Serve(serve)) = cli.command else { panic!("the command is serve") };
    assert_eq!(serve.cache.redis_url.as_deref().unwrap(), "redis://:hunter2@cache");
}

#[test]
fn introspection_has_no_default_and_can_be_switched_on_and_off() {
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
    for setting in command.get_arguments().filter(|setting| setting.get_long().is_some_and(is_setting)) {
        let flag = setting.get_long().unwrap();
        let entry = setting.get_help().unwrap().to_string();
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
fn urls_with_passwords_are_hidden_in_debug_output_and_help() {
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
        let visible = command.get_arguments().filter(|setting| {
            let name = setting.get_id().as_str();
            name.contains("database") && !setting.is_hide_env_values_set()
        });
        assert_eq!(visible.count(), 0, "{}", command.get_name());
    }
}

fn is_setting(flag: &str) -> bool {
    !["help", "version"].contains(&flag)
}
