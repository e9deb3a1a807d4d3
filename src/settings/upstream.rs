//! Settings of the gateway's calls to the services: deadline, retries, hedging and circuit breaker.

use std::time::Duration;

use clap::{ArgAction, Args};

use super::parse::{duration, switch};

/// Calls to slow or unavailable services.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Upstream calls")]
pub struct Upstream {
    /// Time limit of a query or mutation, 1s to 1m. Every call to a service carries the remaining time
    /// as its deadline
    #[arg(
        long,
        env = "OPERATION_DEADLINE",
        value_name = "DURATION",
        default_value = "5s",
        value_parser = operation_deadline
    )]
    pub operation_deadline: Duration,
    /// Maximum number of retries of a read that failed with UNAVAILABLE: 1 to 10, on (3) or off. All
    /// retries together are at most 10 % of the reads, plus a burst of 10
    #[arg(
        long,
        env = "UPSTREAM_RETRIES",
        value_name = "on|off|NUMBER",
        default_value = "on",
        value_parser = retries
    )]
    pub upstream_retries: u32,
    /// Hedging of reads of unread counts, on or off: when an answer takes longer than 95 % of the recent
    /// ones, a second call is sent and the first answer wins. At most 5 % of the reads are hedged
    /// [default: on in gateway, off in serve]
    #[arg(long, env = "UPSTREAM_HEDGE", value_name = "on|off", value_parser = switch)]
    pub upstream_hedge: Option<bool>,
    /// Circuit breaker, on or off: after half of the last 20 calls to a service failed, further calls
    /// are refused for 1 s, then one call probes the service
    #[arg(
        long,
        env = "UPSTREAM_BREAKER",
        value_name = "on|off",
        default_value = "on",
        value_parser = switch,
        action = ArgAction::Set
    )]
    pub upstream_breaker: bool,
}

impl Upstream {
    /// Returns the settings of the calls; `hedge_default` applies unless hedging is set.
    pub fn resilience(&self, hedge_default: bool) -> resilience::Settings {
        resilience::Settings {
            retries: self.upstream_retries,
            hedge: self.upstream_hedge.unwrap_or(hedge_default),
            breaker: self.upstream_breaker,
        }
    }
}

fn operation_deadline(text: &str) -> Result<Duration, String> {
    let deadline = duration(text)?;
    let limits = Duration::from_secs(1)..=Duration::from_secs(60);
    if limits.contains(&deadline) {
        Ok(deadline)
    } else {
        Err("the time limit of an operation is 1s to 1m".to_owned())
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
            .ok_or_else(|| "expected on, off or a number from 1 to 10".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::settings::Cli;

    #[test]
    fn deadline_retries_hedging_and_circuit_breaker_can_be_set() {
        let upstream = |text: &[&str]| {
            let cli = Cli::try_parse_from(["tidings"].iter().chain(text));
            cli.map(|cli| cli.serve.gateway.upstream).map_err(|error| error.to_string())
        };
        let default = upstream(&[]).unwrap();
        assert_eq!(default.operation_deadline, gateway::OPERATION_LIMIT);
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
            assert!(error.contains("--operation-deadline") && error.contains("is 1s to 1m"), "{error}");
        }
    }
}
