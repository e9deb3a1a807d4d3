//! One binary, a subcommand per role. This crate alone knows all four services: it reads the settings, makes the parts and
//! hands each what it needs.

mod connections;
mod descriptors;
mod engine;
mod healthcheck;
mod http;
#[cfg(test)]
mod http_tests;
mod keygen;
mod limits;
mod migrate;
mod patient;
mod peer;
mod process;
mod roles;
mod serve;
mod settings;
mod upstream;
mod url;
mod wiring;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    process::Broken,
    settings::{Cli, Command},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return refuse(error.to_string().trim_start_matches("error: ")),
        Err(help) => help.exit(),
    };
    if let Err(error) = telemetry::log::init(cli.log.format, &cli.log.filter) {
        return refuse(&error.to_string());
    }
    let outcome = to_its_end(async {
        match cli.command.unwrap_or(Command::Serve(Box::new(cli.serve))) {
            Command::Serve(settings) => serve::run(*settings).await,
            Command::Auth(settings) => roles::auth(settings).await,
            Command::Dialog(settings) => roles::dialog(settings).await,
            Command::Counter(settings) => roles::counter(settings).await,
            Command::Gateway(settings) => roles::gateway(*settings).await,
            Command::Migrate(settings) => migrate::run(settings).await,
            Command::Keygen(settings) => keygen::run(&settings),
            Command::Healthcheck(settings) => return Ok(healthcheck::run(&settings)),
        }
        .map(|()| ExitCode::SUCCESS)
    });
    match outcome.unwrap_or_else(|error| Err(error.into())) {
        Ok(code) => code,
        Err(error) if error.is::<Broken>() => {
            tracing::error!(%error, "the process ends");
            ExitCode::FAILURE
        }
        Err(error) => refuse(&format!("{error:#}")),
    }
}

/// Does the work. What other threads still wait for then, a name that nobody resolves, is not waited for: whatever has to
/// end in good order is awaited by the work.
fn to_its_end<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    Ok(outcome)
}

/// A wrong setting is one clear line and exit code 2.
#[expect(clippy::print_stderr, reason = "the one line that a person who starts the program reads")]
fn refuse(why: &str) -> ExitCode {
    let line = why.lines().map(str::trim).take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    eprintln!("tidings: {line}");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    #[test]
    fn the_end_waits_for_no_blocked_thread() {
        let begun = Instant::now();
        let work = async {
            let (started, blocked) = tokio::sync::oneshot::channel();
            drop(tokio::task::spawn_blocking(move || {
                started.send(()).unwrap();
                std::thread::sleep(Duration::from_secs(30));
            }));
            blocked.await.unwrap();
        };
        super::to_its_end(work).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}
