//! Rate limits of operations and of sign-in attempts, on every transport.
//!
//! Operations are counted per user, or per address for anonymous clients. Sign-in attempts, whose password
//! hash is slow on purpose, are counted per address and per login. Each limit is charged before the gateway
//! spends work on the request: before a document is parsed and before a password is hashed.

use std::{net::IpAddr, time::Duration};

use limit::{Charge, Limit, Limiter};
use proto::UserId;

use super::{Client, address::network};
use crate::error::Error;

/// Length of the longest valid login, in bytes. The auth service rejects a longer one without hashing its
/// password, so it is not counted and takes no memory in the limiter.
const LOGIN_MAX: usize = 32;

/// Rate limits of a gateway. All are off by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct RateLimits {
    /// Operations of a user, or of an address for anonymous clients.
    pub requests: Limit,
    /// Registrations, logins and refreshes from an address.
    pub sign_in_address: Limit,
    /// Registrations and logins with a login; attempts of a user to confirm the current password.
    pub sign_in_login: Limit,
    /// Calls to one service.
    pub upstream: Limit,
}

/// Enforces the rate limits of a gateway. Cheap to clone; clones share their counts.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    limits: RateLimits,
    limiter: Limiter,
}

impl RateLimiter {
    /// Creates a rate limiter that counts in `limiter`: in this process or in Redis.
    pub fn new(limits: RateLimits, limiter: Limiter) -> Self {
        Self { limits, limiter }
    }

    /// Charges one operation to the caller, or to the address of an anonymous client.
    ///
    /// # Errors
    /// RATE_LIMITED, with the time to wait, if the limit is reached.
    pub async fn request(&self, client: &Client) -> Result<(), Error> {
        let key = || match &client.caller {
            Some(caller) => format!("requests:user:{}", caller.user),
            None => format!("requests:address:{}", network(client.address)),
        };
        let charges = self.limits.requests.0.map(|rate| Charge { key: key(), rate });
        self.take("requests", charges.as_slice()).await
    }

    /// Charges one sign-in attempt to the address, and to the login if there is one.
    ///
    /// # Errors
    /// RATE_LIMITED, with the time to wait, if either limit is reached.
    pub async fn sign_in(&self, address: IpAddr, login: Option<&str>) -> Result<(), Error> {
        // The auth service trims and lowercases a login: every spelling counts for the same account.
        let login = login.map(|login| login.trim().to_ascii_lowercase());
        let login = login.filter(|login| login.len() <= LOGIN_MAX);
        self.charge_attempt(address, login.map(|login| format!("login:{login}"))).await
    }

    /// Charges one attempt of an authenticated user to confirm the password to the address and to the user.
    ///
    /// # Errors
    /// RATE_LIMITED, with the time to wait, if either limit is reached.
    pub async fn password(&self, address: IpAddr, user: UserId) -> Result<(), Error> {
        self.charge_attempt(address, Some(format!("user:{user}"))).await
    }

    async fn charge_attempt(&self, address: IpAddr, account: Option<String>) -> Result<(), Error> {
        let address_rate = self.limits.sign_in_address.0;
        let address_charge =
            address_rate.map(|rate| Charge { key: format!("sign-in:address:{}", network(address)), rate });
        let account_rate = self.limits.sign_in_login.0;
        let account_charge = account_rate
            .zip(account)
            .map(|(rate, account)| Charge { key: format!("sign-in:{account}"), rate });
        let charges: Vec<Charge> = address_charge.into_iter().chain(account_charge).collect();
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

#[cfg(test)]
mod tests {
    use proto::SessionId;

    use super::*;
    use crate::{
        client::caller::{Authorization, Caller},
        error::Code,
    };

    fn address(text: &str) -> IpAddr {
        text.parse().expect("a valid address")
    }

    fn caller() -> Caller {
        let user = UserId::now();
        let session = SessionId::now();
        Caller { user, session, expires_at_s: 0, authorization: Authorization::new("Bearer x", 0) }
    }

    fn rate_limiter(requests: &str, sign_in_address: &str, sign_in_login: &str) -> RateLimiter {
        let limit = |text: &str| text.parse().expect("a valid limit");
        let limits = RateLimits {
            requests: limit(requests),
            sign_in_address: limit(sign_in_address),
            sign_in_login: limit(sign_in_login),
            upstream: Limit(None),
        };
        RateLimiter::new(limits, Limiter::local())
    }

    #[tokio::test]
    async fn operations_are_counted_per_user_and_anonymous_ones_per_address() {
        let rate_limiter = rate_limiter("1/h:2", "0", "0");
        let client =
            |caller: Option<&Caller>, from: &str| Client { caller: caller.cloned(), address: address(from) };
        let ann = caller();
        let bob = caller();
        assert!(rate_limiter.request(&client(Some(&ann), "192.0.2.1")).await.is_ok());
        assert!(rate_limiter.request(&client(Some(&ann), "192.0.2.2")).await.is_ok());
        let refused = rate_limiter
            .request(&client(Some(&ann), "192.0.2.3"))
            .await
            .expect_err("the third operation exceeds the limit");
        assert_eq!(refused.code(), Code::RateLimited);
        assert!(
            rate_limiter.request(&client(Some(&bob), "192.0.2.1")).await.is_ok(),
            "each user has a separate limit"
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
            "addresses of one /64 network share a limit"
        );
        assert!(rate_limiter.request(&client(None, "2001:db8:1:3::1")).await.is_ok());
    }

    #[tokio::test]
    async fn sign_ins_are_counted_per_address_and_per_login() {
        let rate_limiter = rate_limiter("0", "1/h:4", "1/h:2");
        let first = address("192.0.2.1");
        let second = address("192.0.2.2");
        for from in [first, second] {
            assert!(rate_limiter.sign_in(from, Some("ann")).await.is_ok());
        }
        assert!(
            rate_limiter.sign_in(second, Some("ann")).await.is_err(),
            "a login is limited across addresses"
        );
        for spelling in ["Ann", " ANN\n", &format!("ann{}", " ".repeat(100))] {
            assert!(rate_limiter.sign_in(second, Some(spelling)).await.is_err(), "{spelling:?}");
        }
        for login in [Some("bob"), Some("cleo"), None] {
            assert!(rate_limiter.sign_in(first, login).await.is_ok());
        }
        assert!(
            rate_limiter.sign_in(first, Some("dora")).await.is_err(),
            "an address is limited across logins"
        );
        assert!(
            rate_limiter.sign_in(second, Some(&"x".repeat(1_000_000))).await.is_ok(),
            "a login that is too long is not counted"
        );
    }

    #[tokio::test]
    async fn limits_are_off_by_default() {
        let rate_limiter = RateLimiter::new(RateLimits::default(), Limiter::local());
        for _ in 0..10_000 {
            assert!(rate_limiter.request(&Client { caller: None, address: address("::1") }).await.is_ok());
            assert!(rate_limiter.sign_in(address("::1"), Some("ann")).await.is_ok());
        }
    }
}
