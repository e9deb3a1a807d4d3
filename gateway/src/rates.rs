//! How often somebody may come: operations of a user (of an address where nobody is signed in), and attempts to sign in of
//! an address, of a login and of a person who shows the password again, which are slow on purpose. Every transport asks here, before anything is parsed or hashed.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use limit::{Limit, Limiter, Want};
use proto::UserId;

use crate::{error::Error, viewer::Viewer};

/// No login is longer, in bytes: what is longer is refused without a hash.
const LOGIN_MAX: usize = 32;

/// The limits of a gateway. All are off by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Operations of a user, or of an address.
    pub requests: Limit,
    /// Registrations, logins and refreshes of an address.
    pub sign_in_address: Limit,
    /// Registrations and logins of a login; changes of a person's password.
    pub sign_in_login: Limit,
    /// Calls of one service.
    pub upstream: Limit,
}

/// Who asks, and from where.
#[derive(Debug, Clone)]
pub struct Asker {
    /// Who is signed in.
    pub viewer: Option<Viewer>,
    /// Where the client is, as far as our proxies say.
    pub address: IpAddr,
}

/// Lets people in as often as the limits have it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rates {
    limits: Limits,
    limiter: Limiter,
}

impl Rates {
    /// These limits, counted there.
    pub fn new(limits: Limits, limiter: Limiter) -> Self {
        Self { limits, limiter }
    }

    /// One more operation.
    ///
    /// # Errors
    /// RATE_LIMITED.
    pub async fn request(&self, asker: &Asker) -> Result<(), Error> {
        let key = || match &asker.viewer {
            Some(viewer) => format!("requests:user:{}", viewer.user),
            None => format!("requests:address:{}", network(asker.address)),
        };
        let wants = self.limits.requests.0.map(|rate| Want { key: key(), rate });
        self.take("requests", wants.as_slice()).await
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
            of_address.map(|rate| Want { key: format!("sign-in:address:{}", network(address)), rate });
        let of =
            self.limits.sign_in_login.0.zip(of).map(|(rate, of)| Want { key: format!("sign-in:{of}"), rate });
        let wants: Vec<Want> = of_address.into_iter().chain(of).collect();
        self.take("sign_in", &wants).await
    }

    async fn take(&self, limit: &'static str, wants: &[Want]) -> Result<(), Error> {
        self.limiter.take(wants).await.map_err(|wait| limited(limit, wait))
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
    use crate::{error::Code, viewer::Authorization};

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn viewer() -> Viewer {
        let (user, session) = (UserId::now(), SessionId::now());
        Viewer { user, session, expires_at_s: 0, authorization: Authorization::new("Bearer x", 0) }
    }

    fn rates(requests: &str, of_address: &str, of_login: &str) -> Rates {
        let limit = |text: &str| text.parse().expect("a limit");
        let limits = Limits {
            requests: limit(requests),
            sign_in_address: limit(of_address),
            sign_in_login: limit(of_login),
            upstream: Limit(None),
        };
        Rates::new(limits, Limiter::local())
    }

    #[tokio::test]
    async fn operations_count_for_their_user_wherever_and_for_their_address_where_nobody_is_signed_in() {
        let rates = rates("1/h:2", "0", "0");
        let asker =
            |viewer: Option<&Viewer>, from: &str| Asker { viewer: viewer.cloned(), address: address(from) };
        let (ann, bob) = (viewer(), viewer());
        assert!(rates.request(&asker(Some(&ann), "192.0.2.1")).await.is_ok());
        assert!(rates.request(&asker(Some(&ann), "192.0.2.2")).await.is_ok());
        let refused = rates.request(&asker(Some(&ann), "192.0.2.3")).await.expect_err("the third");
        assert_eq!(refused.code(), Code::RateLimited);
        assert!(
            rates.request(&asker(Some(&bob), "192.0.2.1")).await.is_ok(),
            "everyone has a limit of their own"
        );
        for from in ["192.0.2.1", "::ffff:192.0.2.1"] {
            assert!(rates.request(&asker(None, from)).await.is_ok());
        }
        assert!(rates.request(&asker(None, "192.0.2.1")).await.is_err());
        for from in ["2001:db8:1:2::1", "2001:db8:1:2:ffff::"] {
            assert!(rates.request(&asker(None, from)).await.is_ok());
        }
        assert!(rates.request(&asker(None, "2001:db8:1:2::3")).await.is_err(), "one customer's network");
        assert!(rates.request(&asker(None, "2001:db8:1:3::1")).await.is_ok());
    }

    #[tokio::test]
    async fn signing_in_counts_for_the_address_and_for_the_login() {
        let rates = rates("0", "1/h:4", "1/h:2");
        let (here, there) = (address("192.0.2.1"), address("192.0.2.2"));
        for from in [here, there] {
            assert!(rates.sign_in(from, Some("ann")).await.is_ok());
        }
        assert!(rates.sign_in(there, Some("ann")).await.is_err(), "from wherever");
        for login in [Some("bob"), Some("cleo"), None] {
            assert!(rates.sign_in(here, login).await.is_ok());
        }
        assert!(rates.sign_in(here, Some("dora")).await.is_err(), "as whoever");
        assert!(
            rates.sign_in(there, Some(&"x".repeat(1_000_000))).await.is_ok(),
            "nothing is kept of what is no login"
        );
    }

    #[tokio::test]
    async fn what_is_off_limits_nobody() {
        let rates = Rates::new(Limits::default(), Limiter::local());
        for _ in 0..10_000 {
            assert!(rates.request(&Asker { viewer: None, address: address("::1") }).await.is_ok());
            assert!(rates.sign_in(address("::1"), Some("ann")).await.is_ok());
        }
    }
}
