//! Binary `tidings`: one subcommand per role, and commands for operators. It is the only
//! crate that depends on the three services and the gateway: it parses the settings, connects to Postgres,
//! Redis and Kafka (or opens SQLite files), and wires the services together.

mod connection_limit;
mod demo;
mod discovery;
mod engine;
mod event_log;
mod existing_database;
mod file_descriptors;
mod healthcheck;
mod host;
mod http;
#[cfg(test)]
mod http_tests;
mod keygen;
mod maintenance;
mod migrate;
#[cfg(test)]
mod operations_doc;
mod private_folder;
mod process;
mod progress;
mod replica;
mod roles;
mod serve;
mod settings;
mod wiring;
mod write_timeout;

use std::process::ExitCode;

use clap::Parser;
use telemetry::{Identity, log, trace::Export};

use crate::{
    process::TaskFailure,
    settings::{Cli, Command},
};

#[cfg(not(feature = "heap-profiles"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(feature = "heap-profiles")]
#[global_allocator]
static ALLOCATOR: profiles::Jemalloc = profiles::Jemalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            return usage_error(error.to_string().trim_start_matches("error: "));
        }
        Err(help) => help.exit(),
    };
    let command = cli.command.unwrap_or(Command::Serve(Box::new(cli.serve)));
    let identity = Identity::new(command.service(), env!("CARGO_PKG_VERSION"));
    let log_format = match telemetry::log::init(cli.log.format, &cli.log.filter, &identity) {
        Ok(format) => format,
        Err(error) => return usage_error(&error.to_string()),
    };
    let outcome = block_on(async {
        let export = if command.is_server() { Some(Export::start(&identity)?) } else { None };
        let outcome = run(command, log_format, &identity).await;
        if let Some(export) = export {
            export.finish().await;
        }
        outcome
    });
    match outcome.unwrap_or_else(|error| Err(error.into())) {
        Ok(code) => code,
        Err(error) if error.is::<TaskFailure>() => {
            tracing::error!(%error, "exiting with status 1");
            ExitCode::FAILURE
        }
        Err(error) => usage_error(&format!("{error:#}")),
    }
}

/// Runs a command to its end.
async fn run(command: Command, log_format: log::Format, identity: &Identity) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(settings) => serve::run(*settings, log_format, identity).await,
        Command::Auth(settings) => roles::auth(settings, identity).await,
        Command::Dialog(settings) => roles::dialog(settings, identity).await,
        Command::Counter(settings) => roles::counter(settings, identity).await,
        Command::Gateway(settings) => roles::gateway(*settings, identity).await,
        Command::Migrate(settings) => migrate::run(settings).await,
        Command::Keygen(settings) => keygen::run(&settings),
        Command::Healthcheck(settings) => return Ok(healthcheck::run(&settings)),
        Command::Reconcile(settings) => return maintenance::reconcile(&settings).await,
        Command::Rebuild(settings) => return maintenance::rebuild(&settings).await,
        Command::Explain(settings) => return maintenance::explain(&settings).await,
        Command::Events(settings) => return event_log::run(&settings.command).await,
        Command::Saga(settings) => return event_log::saga::run(&settings).await,
        Command::Demo(settings) => return demo::run(&settings).await,
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Runs a future to completion on a new runtime. Blocking threads that are still running then, such as a
/// name lookup, are abandoned; dropping the runtime would wait for them. Work that must finish is
/// awaited by the future.
fn block_on<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(future);
    runtime.shutdown_background();
    Ok(outcome)
}

/// Prints an error of the settings or of the startup as one line and returns exit status 2.
#[expect(
    clippy::print_stderr,
    reason = "the log may not be initialised yet, and the line is for the terminal"
)]
fn usage_error(message: &str) -> ExitCode {
    let line =
        message.lines().map(str::trim).take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    eprintln!("tidings: {line}");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    #[test]
    fn exit_does_not_wait_for_blocking_threads() {
        let start = Instant::now();
        let future = async {
            let (started, blocked) = tokio::sync::oneshot::channel();
            drop(tokio::task::spawn_blocking(move || {
                started.send(()).unwrap();
                std::thread::sleep(Duration::from_secs(30));
            }));
            blocked.await.unwrap();
        };
        super::block_on(future).unwrap();
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
}
