//! Settings of rate limits, and the trusted proxies, whose headers give the addresses of clients.

use std::str::FromStr;

use clap::Args;
use gateway::{RateLimits as GatewayRateLimits, TrustedProxies};
use limit::{InvalidLimit, Limit};

/// Rate limits and trusted proxies.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Rate limits")]
pub struct RateLimits {
    /// Rate limit of GraphQL operations, over all transports, per user; for unauthenticated clients per
    /// address (IPv6: per /64 network)
    #[arg(long, env = "RATE_LIMIT_REQUESTS", value_name = "LIMIT", default_value = "100/s:200")]
    pub rate_limit_requests: Limit,
    /// Rate limits of sign-in attempts: first of registrations, logins and token refreshes per address,
    /// then of wrong passwords per login name, from addresses that have not signed in to it before, and of
    /// password changes per user; 0 switches both off
    #[arg(long, env = "RATE_LIMIT_SIGN_IN", value_name = "LIMIT,LIMIT", default_value = "30/m,10/m")]
    pub rate_limit_sign_in: SignIn,
    /// Rate limit of calls from this gateway to each service. A call beyond it waits up to 100 ms, then
    /// fails with RATE_LIMITED
    #[arg(long, env = "RATE_LIMIT_UPSTREAM", value_name = "LIMIT", default_value = "0")]
    pub rate_limit_upstream: Limit,
    /// Proxies in front of this gateway, as comma-separated IP addresses and networks such as
    /// 10.0.0.0/8. Their X-Forwarded-For header gives the address of a client; every other peer is
    /// itself the client [default: none]
    #[arg(long, env = "TRUSTED_PROXIES", value_name = "NETWORK,…")]
    pub trusted_proxies: Option<TrustedProxies>,
}

/// Rate limits of sign-in attempts per address and per login.
#[derive(Debug, Clone, Copy)]
pub struct SignIn {
    address: Limit,
    login: Limit,
}

impl FromStr for SignIn {
    type Err = InvalidLimit;

    /// Parses two limits separated by a comma, or `0` for no limits.
    fn from_str(text: &str) -> Result<Self, InvalidLimit> {
        let (address, login) =
            text.split_once(',').or((text == "0").then_some((text, text))).ok_or(InvalidLimit)?;
        Ok(Self { address: address.trim().parse()?, login: login.trim().parse()? })
    }
}

impl RateLimits {
    /// Returns the limits for the gateway.
    pub fn limits(&self) -> GatewayRateLimits {
        GatewayRateLimits {
            requests: self.rate_limit_requests,
            sign_in_address: self.rate_limit_sign_in.address,
            sign_in_login: self.rate_limit_sign_in.login,
            upstream: self.rate_limit_upstream,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_sign_in_are_two_or_none() {
        let parse = |text: &str| text.parse::<SignIn>().map(|limits| (limits.address, limits.login));
        let limit = |text: &str| text.parse::<Limit>().unwrap();
        assert_eq!(parse("30/m,10/m"), Ok((limit("30/m:30"), limit("10/m:10"))));
        assert_eq!(parse("30/m:5, 0"), Ok((limit("30/m:5"), Limit(None))));
        assert_eq!(parse("0"), Ok((Limit(None), Limit(None))));
        for wrong in ["", "30/m", "30/m,", ",", "1/m,1/m,1/m", "off"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
