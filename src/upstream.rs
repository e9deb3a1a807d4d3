//! The settings of what stands between the gateway and the services.

use std::time::Duration;

use clap::{ArgAction, Args};

use crate::settings::{duration, switch};

/// How the gateway deals with services that are slow or away.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Services that are slow or away")]
pub struct Upstream {
    /// How long an operation may take, from 1s to 1m; what is left of it travels with every call
    #[arg(long, env = "OPERATION_DEADLINE", default_value = "5s", value_parser = operation_deadline)]
    pub operation_deadline: Duration,
    /// How often a read that a service could not answer is made again, 1 to 10; or on (3), or off. All of them together are
    /// a tenth of the reads at most
    #[arg(long, env = "UPSTREAM_RETRIES", value_name = "on|off|NUMBER", default_value = "on", value_parser = retries)]
    pub upstream_retries: u32,
    /// Whether a late read of counters is asked a second time: on or off [default: on in gateway, off in serve]
    #[arg(long, env = "UPSTREAM_HEDGE", value_name = "on|off", value_parser = switch)]
    pub upstream_hedge: Option<bool>,
    /// Whether a service that fails is left alone for a second: on or off
    #[arg(long, env = "UPSTREAM_BREAKER", value_name = "on|off", default_value = "on", value_parser = switch, action = ArgAction::Set)]
    pub upstream_breaker: bool,
}

impl Upstream {
    /// What is put around the services; hedges are on or off where nobody says.
    pub fn resilience(&self, hedge: bool) -> resilience::Settings {
        resilience::Settings {
            retries: self.upstream_retries,
            hedge: self.upstream_hedge.unwrap_or(hedge),
            breaker: self.upstream_breaker,
        }
    }
}

fn operation_deadline(text: &str) -> Result<Duration, String> {
    let deadline = duration(text)?;
    let bounds = Duration::from_secs(1)..=Duration::from_secs(60);
    if bounds.contains(&deadline) {
        Ok(deadline)
    } else {
        Err("an operation has a second at least, and a minute at most".to_owned())
    }
}

fn retries(text: &str) -> Result<u32, String> {
    match switch(text) {
        Ok(true) => Ok(resilience::RETRIES_DEFAULT),
        Ok(false) => Ok(0),
        Err(_) => text
            .parse()
            .ok()
            .filter(|retries| (1..=10).contains(retries))
            .ok_or_else(|| "it is on, off or a number from 1 to 10".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::settings::Cli;

    #[test]
    fn what_is_around_the_services_can_be_set() {
        let upstream = |text: &[&str]| {
            let cli = Cli::try_parse_from(["tidings"].iter().chain(text));
            cli.map(|cli| cli.serve.gateway.upstream).map_err(|error| error.to_string())
        };
        let default = upstream(&[]).unwrap();
        assert_eq!(default.operation_deadline, gateway::pipeline::OPERATION_LIMIT);
        let settings = resilience::Settings { retries: 3, hedge: false, breaker: true };
        assert_eq!(default.resilience(false), settings);
        assert_eq!(default.resilience(true), resilience::Settings { hedge: true, ..settings });
        let off =
            upstream(&["--upstream-retries", "off", "--upstream-hedge=off", "--upstream-breaker", "off"])
                .unwrap();
        assert_eq!(off.resilience(true), resilience::Settings { retries: 0, hedge: false, breaker: false });
        assert_eq!(upstream(&["--upstream-retries", "10"]).unwrap().upstream_retries, 10);
        assert_eq!(
            upstream(&["--operation-deadline", "1500ms"]).unwrap().operation_deadline.as_millis(),
            1_500
        );
        for wrong in ["0", "11", "-1", "many"] {
            assert!(
                upstream(&[&format!("--upstream-retries={wrong}")]).unwrap_err().contains("from 1 to 10"),
                "{wrong}"
            );
        }
        for wrong in ["999ms", "61s"] {
            let error = upstream(&["--operation-deadline", wrong]).unwrap_err();
            assert!(error.contains("--operation-deadline") && error.contains("a second at least"), "{error}");
        }
    }
}
