//! Rate limits of operations and of sign-in attempts, on every transport.
//!
//! Operations are counted per user, or per address for anonymous clients. Sign-in attempts, whose password
//! hash is slow on purpose, are counted per address. Each limit is charged before the gateway spends work on
//! the request: before a document is parsed and before a password is hashed.
//!
//! Wrong passwords are counted per login, and per login and address. The limit of the login is for addresses
//! that have not signed in to it before, so that no stranger can lock its owner out. Only auth knows which
//! these are: an attempt is charged to both, auth's answer tells what to give back
//! (docs/decisions/0016-sign-in-floods.md).

use std::{net::IpAddr, time::Duration};

use limit::{Charge, Limit, Limiter};
use proto::{KNOWN_ADDRESS, UserId};
use tonic::Status;

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
    /// Wrong passwords for a login from addresses that have not signed in to it before, and from each
    /// address; attempts of a user to confirm the current password.
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

    /// Charges one attempt to register or to refresh a session to the address.
    ///
    /// # Errors
    /// RATE_LIMITED, with the time to wait, if the limit is reached.
    pub async fn sign_in(&self, address: IpAddr) -> Result<(), Error> {
        self.charge_attempt(address, None).await
    }

    /// Charges one attempt to log in: to the address, and until it is [settled](LoginAttempt::settle) to the
    /// login and to both together.
    ///
    /// # Errors
    /// RATE_LIMITED, with the time to wait, if the limit of the address, or of the address for this login,
    /// is reached. If the one of the login is reached, the attempt is for known addresses only.
    pub async fn login(&self, address: IpAddr, login: &str) -> Result<LoginAttempt, Error> {
        self.charge_attempt(address, None).await?;
        let mut attempt =
            LoginAttempt { rate_limiter: self.clone(), by_address: None, by_login: None, limited_for: None };
        // The auth service trims and lowercases a login: every spelling counts for the same account.
        let login = login.trim().to_ascii_lowercase();
        let Some(rate) = self.limits.sign_in_login.0.filter(|_| login.len() <= LOGIN_MAX) else {
            return Ok(attempt);
        };
        let key = format!("sign-in:login:{login}:{}", network(address));
        let by_address = Charge { key, rate };
        self.take("sign_in", std::slice::from_ref(&by_address)).await?;
        attempt.by_address = Some(by_address);
        let by_login = Charge { key: format!("sign-in:login:{login}"), rate };
        match self.limiter.take(std::slice::from_ref(&by_login)).await {
            Ok(()) => attempt.by_login = Some(by_login),
            Err(wait) => attempt.limited_for = Some(wait),
        }
        Ok(attempt)
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

/// An attempt to log in that the limits admit.
#[derive(Debug)]
pub struct LoginAttempt {
    rate_limiter: RateLimiter,
    /// What was charged to the login and the address together.
    by_address: Option<Charge>,
    /// What was charged to the login.
    by_login: Option<Charge>,
    /// Time to wait if the limit of the login is reached.
    limited_for: Option<Duration>,
}

impl LoginAttempt {
    /// Returns true if only an address that has signed in to this login before may try.
    pub fn is_for_known_addresses(&self) -> bool {
        self.limited_for.is_some()
    }

    /// Converts auth's answer, and gives back what was charged, except for a wrong password: it stays
    /// charged to the login and the address together, and from an unknown address to the login.
    ///
    /// # Errors
    /// RATE_LIMITED if the address is unknown and the limit of the login is reached, else the mapping of the
    /// status.
    pub async fn settle<T>(self, answer: Result<T, Status>) -> Result<T, Error> {
        let Self { rate_limiter, by_address, by_login, limited_for } = self;
        let status = answer.as_ref().err();
        let is_wrong = status.is_some_and(|status| status.code() == tonic::Code::Unauthenticated);
        let is_known = status.is_some_and(|status| status.metadata().contains_key(KNOWN_ADDRESS));
        let returned = [by_address.filter(|_| !is_wrong), by_login.filter(|_| !is_wrong || is_known)];
        let returned: Vec<Charge> = returned.into_iter().flatten().collect();
        rate_limiter.limiter.give_back(&returned).await;
        match (answer, limited_for) {
            (Err(status), Some(wait)) if status.code() == tonic::Code::FailedPrecondition => {
                Err(limited("sign_in", wait))
            }
            (answer, _) => answer.map_err(Error::from),
        }
    }
}

fn limited(limit: &'static str, wait: Duration) -> Error {
    metrics::counter!("gateway_rate_limited_total", "limit" => limit).increment(1);
    Error::rate_limited(wait)
}

#[cfg(test)]
mod tests {
    use proto::SessionId;
    use tonic::metadata::MetadataValue;

    use super::*;
    use crate::{
        client::{
            caller::{Authorization, Caller},
            user_agent::UserAgent,
        },
        error::Code,
    };

    fn client(caller: Option<&Caller>, from: &str) -> Client {
        Client { caller: caller.cloned(), address: address(from), user_agent: UserAgent::default() }
    }

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

    fn wrong() -> Result<(), Status> {
        Err(Status::unauthenticated("wrong"))
    }

    /// Answer of auth to a wrong password from an address that has signed in to the login before.
    fn wrong_from_known() -> Result<(), Status> {
        let mut status = Status::unauthenticated("wrong");
        status.metadata_mut().insert(KNOWN_ADDRESS, MetadataValue::from_static("1"));
        Err(status)
    }

    /// Logs in, with this answer of auth, and returns what the client gets. `None` stands for success.
    async fn log_in(
        rate_limiter: &RateLimiter,
        from: &str,
        login: &str,
        answer: fn() -> Result<(), Status>,
    ) -> Option<Code> {
        match rate_limiter.login(address(from), login).await {
            Ok(attempt) => attempt.settle(answer()).await.err().map(|error| error.code()),
            Err(error) => Some(error.code()),
        }
    }

    #[tokio::test]
    async fn wrong_passwords_are_counted_per_login_across_addresses_and_spellings() {
        let rate_limiter = rate_limiter("0", "0", "1/h:2");
        for from in ["192.0.2.1", "192.0.2.2"] {
            assert_eq!(log_in(&rate_limiter, from, "ann", wrong).await, Some(Code::Unauthenticated));
        }
        for (number, spelling) in
            ["ann", "Ann", " ANN\n", &format!("ann{}", " ".repeat(100))].iter().enumerate()
        {
            let from = format!("198.51.100.{number}");
            let attempt = rate_limiter.login(address(&from), spelling).await.expect("may be known");
            assert!(attempt.is_for_known_addresses(), "{spelling:?}");
            let unknown = Err::<(), _>(Status::failed_precondition("unknown"));
            let error = attempt.settle(unknown).await.expect_err("an unknown address");
            assert_eq!(error.code(), Code::RateLimited, "{spelling:?}");
        }
        assert_eq!(log_in(&rate_limiter, "192.0.2.1", "bob", wrong).await, Some(Code::Unauthenticated));
        let long = "x".repeat(1_000_000);
        for _ in 0..5 {
            let answer = log_in(&rate_limiter, "192.0.2.9", &long, wrong).await;
            assert_eq!(answer, Some(Code::Unauthenticated), "a login that is too long is not counted");
        }
    }

    #[tokio::test]
    async fn a_known_address_is_limited_by_its_own_failures_only() {
        let rate_limiter = rate_limiter("0", "0", "1/h:3");
        for number in 0..3 {
            let from = format!("198.51.100.{number}");
            assert_eq!(log_in(&rate_limiter, &from, "ann", wrong).await, Some(Code::Unauthenticated));
        }
        let home = "192.0.2.1";
        for _ in 0..2 {
            let answer = log_in(&rate_limiter, home, "ann", wrong_from_known).await;
            assert_eq!(answer, Some(Code::Unauthenticated));
        }
        for _ in 0..9 {
            assert_eq!(log_in(&rate_limiter, home, "ann", || Ok(())).await, None, "success is not counted");
        }
        assert_eq!(
            log_in(&rate_limiter, home, "ann", wrong_from_known).await,
            Some(Code::Unauthenticated),
            "the third failure"
        );
        assert_eq!(log_in(&rate_limiter, home, "ann", || Ok(())).await, Some(Code::RateLimited));
        assert_eq!(log_in(&rate_limiter, "192.0.2.2", "ann", || Ok(())).await, None, "another known address");
    }

    #[tokio::test]
    async fn failures_from_known_addresses_and_answers_without_a_verdict_leave_the_login_alone() {
        let rate_limiter = rate_limiter("0", "0", "1/h:3");
        for number in 0..9 {
            let from = format!("192.0.2.{number}");
            log_in(&rate_limiter, &from, "ann", wrong_from_known).await;
            log_in(&rate_limiter, &from, "ann", || Err(Status::unavailable("away"))).await;
            let busy = || -> Result<(), Status> { Err(proto::refuse("busy", Duration::from_secs(1))) };
            assert_eq!(log_in(&rate_limiter, &from, "ann", busy).await, Some(Code::RateLimited));
        }
        let attempt = rate_limiter.login(address("198.51.100.1"), "ann").await.expect("admitted");
        assert!(!attempt.is_for_known_addresses());
    }

    #[tokio::test]
    async fn attempts_in_flight_are_counted() {
        let rate_limiter = rate_limiter("0", "0", "1/h:2");
        let mut attempts = Vec::new();
        for number in 0..4 {
            let from = address(&format!("192.0.2.{number}"));
            attempts.push(rate_limiter.login(from, "ann").await.expect("admitted"));
        }
        let limited: Vec<bool> = attempts.iter().map(LoginAttempt::is_for_known_addresses).collect();
        assert_eq!(limited, [false, false, true, true]);
    }

    #[tokio::test]
    async fn all_attempts_are_counted_per_address() {
        let rate_limiter = rate_limiter("0", "1/h:4", "0");
        let from = address("192.0.2.1");
        for login in ["ann", "bob"] {
            assert_eq!(log_in(&rate_limiter, "192.0.2.1", login, || Ok(())).await, None);
            assert!(rate_limiter.sign_in(from).await.is_ok());
        }
        assert_eq!(log_in(&rate_limiter, "192.0.2.1", "cleo", || Ok(())).await, Some(Code::RateLimited));
        assert!(rate_limiter.sign_in(from).await.is_err());
        assert!(rate_limiter.sign_in(address("192.0.2.2")).await.is_ok());
    }

    #[tokio::test]
    async fn limits_are_off_by_default() {
        let rate_limiter = RateLimiter::new(RateLimits::default(), Limiter::local());
        for _ in 0..10_000 {
            assert!(rate_limiter.request(&client(None, "::1")).await.is_ok());
            assert!(rate_limiter.sign_in(address("::1")).await.is_ok());
            assert_eq!(log_in(&rate_limiter, "::1", "ann", wrong).await, Some(Code::Unauthenticated));
        }
    }
}
