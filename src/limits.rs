//! The settings of rate limits: how often somebody may come, and whose word is taken about where clients are.

use std::str::FromStr;

use clap::Args;
use gateway::{address::TrustedProxies, rates::Limits};
use limit::{InvalidLimit, Limit};

/// How often somebody may come.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Rate limits")]
pub struct RateLimits {
    /// Operations of a user, where nobody is signed in of an address, over every transport. A limit is NUMBER/UNIT:BURST: so
    /// many in a second (s), a minute (m) or an hour (h), and BURST at once, where it is left out NUMBER; 0 is none
    #[arg(long, env = "RATE_LIMIT_REQUESTS", value_name = "LIMIT", default_value = "100/s:200")]
    pub rate_limit_requests: Limit,
    /// Registrations, logins and refreshes of an address, and after a comma registrations and logins of a login
    #[arg(long, env = "RATE_LIMIT_SIGN_IN", value_name = "LIMIT,LIMIT", default_value = "30/m,10/m")]
    pub rate_limit_sign_in: SignIn,
    /// Calls of each service by this gateway; what comes too soon waits for 100 ms at most and is UNAVAILABLE beyond
    #[arg(long, env = "RATE_LIMIT_UPSTREAM", value_name = "LIMIT", default_value = "0")]
    pub rate_limit_upstream: Limit,
    /// Proxies in front of this gateway, as addresses and networks, comma-separated: a client is where they say in
    /// X-Forwarded-For, else the other end of the connection [default: none]
    #[arg(long, env = "TRUSTED_PROXIES", value_name = "ADDRESS,NETWORK")]
    pub trusted_proxies: Option<TrustedProxies>,
}

/// The limits of an address and of a login.
#[derive(Debug, Clone, Copy)]
pub struct SignIn {
    address: Limit,
    login: Limit,
}

impl FromStr for SignIn {
    type Err = InvalidLimit;

    /// Reads two limits, or `0` for none of either.
    fn from_str(text: &str) -> Result<Self, InvalidLimit> {
        let (address, login) =
            text.split_once(',').or((text == "0").then_some((text, text))).ok_or(InvalidLimit)?;
        Ok(Self { address: address.trim().parse()?, login: login.trim().parse()? })
    }
}

impl RateLimits {
    /// As the gateway takes them.
    pub fn limits(&self) -> Limits {
        Limits {
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
    fn the_limits_of_signing_in_are_two_or_none() {
        let read = |text: &str| text.parse::<SignIn>().map(|limits| (limits.address, limits.login));
        let limit = |text: &str| text.parse::<Limit>().unwrap();
        assert_eq!(read("30/m,10/m"), Ok((limit("30/m:30"), limit("10/m:10"))));
        assert_eq!(read("30/m:5, 0"), Ok((limit("30/m:5"), Limit(None))));
        assert_eq!(read("0"), Ok((Limit(None), Limit(None))));
        for wrong in ["", "30/m", "30/m,", ",", "1/m,1/m,1/m", "off"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
