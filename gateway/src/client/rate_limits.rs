//! How often somebody may come: operations of a user (of an address where nobody is signed in), and attempts to sign in of
//! an address, of a login and of a person who shows the password again, which are slow on purpose. Every transport asks here, before anything is parsed or hashed.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use limit::{Charge, Limit, Limiter};
use proto::UserId;

use super::Client;
use crate::error::Error;

/// No login is longer, in bytes: what is longer is refused without a hash.
const LOGIN_MAX: usize = 32;

/// The limits of a gateway. All are off by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct RateLimits {
    /// Operations of a user, or of an address.
    pub requests: Limit,
    /// Registrations, logins and refreshes of an address.
    pub sign_in_address: Limit,
    /// Registrations and logins of a login; changes of a person's password.
    pub sign_in_login: Limit,
    /// Calls of one service.
    pub upstream: Limit,
}

/// Lets people in as often as the limits have it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    limits: RateLimits,
    limiter: Limiter,
}

impl RateLimiter {
    /// These limits, counted there.
    pub fn new(limits: RateLimits, limiter: Limiter) -> Self {
        Self { limits, limiter }
    }

    /// One more operation.
    ///
    /// # Errors
    /// RATE_LIMITED.
    pub async fn request(&self, client: &Client) -> Result<(), Error> {
        let key = || match &client.caller {
            Some(caller) => format!("requests:user:{}", caller.user),
            None => format!("requests:address:{}", network(client.address)),
        };
        let charges = self.limits.requests.0.map(|rate| Charge { key: key(), rate });
        self.take("requests", charges.as_slice()).await
    }

    /// One more attempt to sign in from an address, as this login where it is told.
    ///
    /// # Errors
    /// RATE_LIMITED.
    pub async fn sign_in(&self, address: IpAddr, login: Option<&str>) -> Result<(), Error> {
        let login = login.filter(|login| login.len() <= LOGIN_MAX);
        self.attempt(address, login.map(|login| format!("login:{login}"))).await
    }

    /// One more attempt of a person who is signed in to show the password.
    ///
    /// # Errors
    /// RATE_LIMITED.
    pub async fn password(&self, address: IpAddr, user: UserId) -> Result<(), Error> {
        self.attempt(address, Some(format!("user:{user}"))).await
    }

    async fn attempt(&self, address: IpAddr, of: Option<String>) -> Result<(), Error> {
        let of_address = self.limits.sign_in_address.0;
        let of_address =
            of_address.map(|rate| Charge { key: format!("sign-in:address:{}", network(address)), rate });
        let of = self
            .limits
            .sign_in_login
            .0
            .zip(of)
            .map(|(rate, of)| Charge { key: format!("sign-in:{of}"), rate });
        let charges: Vec<Charge> = of_address.into_iter().chain(of).collect();
        self.take("sign_in", &charges).await
    }

    async fn take(&self, limit: &'static str, charges: &[Charge]) -> Result<(), Error> {
        self.limiter.take(charges).await.map_err(|wait| limited(limit, wait))
    }
}

fn limited(limit: &'static str, wait: Duration) -> Error {
    metrics::counter!("gateway_rate_limited_total", "limit" => limit).increment(1);
    Error::rate_limited(wait)
}

/// What one customer of a network has: an address, of IPv6 the 64 bits before the ones that everyone chooses.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use proto::SessionId;

    use super::*;
    use crate::{
        client::caller::{Authorization, Caller},
        error::Code,
    };

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn caller() -> Caller {
        let (user, session) = (UserId::now(), SessionId::now());
        Caller { user, session, expires_at_s: 0, authorization: Authorization::new("Bearer x", 0) }
    }

    fn rate_limiter(requests: &str, of_address: &str, of_login: &str) -> RateLimiter {
        let limit = |text: &str| text.parse().expect("a limit");
        let limits = RateLimits {
            requests: limit(requests),
            sign_in_address: limit(of_address),
            sign_in_login: limit(of_login),
            upstream: Limit(None),
        };
        RateLimiter::new(limits, Limiter::local())
    }

    #[tokio::test]
    async fn operations_count_for_their_user_wherever_and_for_their_address_where_nobody_is_signed_in() {
        let rate_limiter = rate_limiter("1/h:2", "0", "0");
        let client =
            |caller: Option<&Caller>, from: &str| Client { caller: caller.cloned(), address: address(from) };
        let (ann, bob) = (caller(), caller());
        assert!(rate_limiter.request(&client(Some(&ann), "192.0.2.1")).await.is_ok());
        assert!(rate_limiter.request(&client(Some(&ann), "192.0.2.2")).await.is_ok());
        let refused = rate_limiter.request(&client(Some(&ann), "192.0.2.3")).await.expect_err("the third");
        assert_eq!(refused.code(), Code::RateLimited);
        assert!(
            rate_limiter.request(&client(Some(&bob), "192.0.2.1")).await.is_ok(),
            "everyone has a limit of their own"
        );
        for from in ["192.0.2.1", "::ffff:192.0.2.1"] {
            assert!(rate_limiter.request(&client(None, from)).await.is_ok());
        }
        assert!(rate_limiter.request(&client(None, "192.0.2.1")).await.is_err());
        for from in ["2001:db8:1:2::1", "2001:db8:1:2:ffff::"] {
            assert!(rate_limiter.request(&client(None, from)).await.is_ok());
        }
        assert!(
            rate_limiter.request(&client(None, "2001:db8:1:2::3")).await.is_err(),
            "one customer's network"
        );
        assert!(rate_limiter.request(&client(None, "2001:db8:1:3::1")).await.is_ok());
    }

    #[tokio::test]
    async fn signing_in_counts_for_the_address_and_for_the_login() {
        let rate_limiter = rate_limiter("0", "1/h:4", "1/h:2");
        let (here, there) = (address("192.0.2.1"), address("192.0.2.2"));
        for from in [here, there] {
            assert!(rate_limiter.sign_in(from, Some("ann")).await.is_ok());
        }
        assert!(rate_limiter.sign_in(there, Some("ann")).await.is_err(), "from wherever");
        for login in [Some("bob"), Some("cleo"), None] {
            assert!(rate_limiter.sign_in(here, login).await.is_ok());
        }
        assert!(rate_limiter.sign_in(here, Some("dora")).await.is_err(), "as whoever");
        assert!(
            rate_limiter.sign_in(there, Some(&"x".repeat(1_000_000))).await.is_ok(),
            "nothing is kept of what is no login"
        );
    }

    #[tokio::test]
    async fn what_is_off_limits_nobody() {
        let rate_limiter = RateLimiter::new(RateLimits::default(), Limiter::local());
        for _ in 0..10_000 {
            assert!(rate_limiter.request(&Client { caller: None, address: address("::1") }).await.is_ok());
            assert!(rate_limiter.sign_in(address("::1"), Some("ann")).await.is_ok());
        }
    }
}
