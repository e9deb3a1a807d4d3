//! Socket quota: limits the sockets and streams of each user at this gateway, and the sockets of
//! anonymous clients, in all and of each address.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use proto::UserId;

use crate::client::address::network;

/// One address may use one of this many parts of the quota of anonymous sockets.
const SHARES: usize = 10;
/// Smallest share of an address. Clients behind one address translator all reconnect when a gateway stops.
const SHARE_MIN: usize = 10;

/// The quotas of a gateway. Cheap to clone; clones share their state.
#[derive(Debug, Clone)]
pub struct Quota(Arc<State>);

#[derive(Debug)]
struct State {
    per_user_max: usize,
    anonymous_max: usize,
    /// Open sockets and streams of each user. A user without any has no entry.
    open: Mutex<HashMap<UserId, usize>>,
    anonymous: Mutex<Anonymous>,
}

/// Open sockets of anonymous clients.
#[derive(Debug, Default)]
struct Anonymous {
    total: usize,
    /// Those of each network. A network without any has no entry.
    by_network: HashMap<IpAddr, usize>,
}

/// Reason to refuse an anonymous socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The quota of all anonymous sockets is used up.
    Everyone,
    /// The share of the client's address is used up.
    Address,
}

impl Quota {
    /// Creates the quotas: the maximum for each user, and for all anonymous sockets together. One address
    /// may have a tenth of the latter, but always ten.
    pub fn new(per_user_max: usize, anonymous_max: usize) -> Self {
        let open = Mutex::default();
        Self(Arc::new(State { per_user_max, anonymous_max, open, anonymous: Mutex::default() }))
    }

    /// Takes a permit for an anonymous socket of this address. Dropping it returns it.
    ///
    /// # Errors
    /// The quota that is used up.
    pub fn take_anonymous(&self, address: IpAddr) -> Result<AnonymousPermit, Refusal> {
        let network = network(address);
        let share = (self.0.anonymous_max / SHARES).max(SHARE_MIN);
        let mut anonymous = self.0.anonymous.lock();
        if anonymous.by_network.get(&network).is_some_and(|count| *count >= share) {
            return Err(Refusal::Address);
        }
        if anonymous.total >= self.0.anonymous_max {
            return Err(Refusal::Everyone);
        }
        anonymous.total += 1;
        *anonymous.by_network.entry(network).or_default() += 1;
        Ok(AnonymousPermit { quota: self.clone(), network })
    }

    /// Takes a permit for a socket or stream of a user, `None` if the user's quota is used up.
    pub fn take(&self, user: UserId) -> Option<QuotaPermit> {
        let mut open = self.0.open.lock();
        if open.get(&user).is_some_and(|count| *count >= self.0.per_user_max) {
            return None;
        }
        *open.entry(user).or_default() += 1;
        Some(QuotaPermit { quota: self.clone(), user })
    }
}

/// Permit for one socket or stream of a user. Dropping it returns it to the quota.
#[derive(Debug)]
pub struct QuotaPermit {
    quota: Quota,
    user: UserId,
}

impl Drop for QuotaPermit {
    fn drop(&mut self) {
        let mut open = self.quota.0.open.lock();
        if let Some(count) = open.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.user);
            }
        }
    }
}

/// Permit for one anonymous socket. Dropping it returns it to the quota.
#[derive(Debug)]
pub struct AnonymousPermit {
    quota: Quota,
    network: IpAddr,
}

impl Drop for AnonymousPermit {
    fn drop(&mut self) {
        let mut anonymous = self.quota.0.anonymous.lock();
        anonymous.total -= 1;
        if let Some(count) = anonymous.by_network.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                anonymous.by_network.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("a valid address")
    }

    #[test]
    fn a_dropped_permit_is_available_again() {
        let quota = Quota::new(2, 1);
        let user = UserId::now();
        let first = quota.take(user).expect("available");
        let second = quota.take(user).expect("available");
        assert!(quota.take(user).is_none());
        let other = quota.take(UserId::now()).expect("every user has a quota");
        drop(first);
        let third = quota.take(user).expect("available again");
        drop((second, third, other));
        assert!(quota.0.open.lock().is_empty());
        let here = address("192.0.2.1");
        let anonymous = quota.take_anonymous(here).expect("available");
        assert_eq!(quota.take_anonymous(here).err(), Some(Refusal::Everyone));
        drop(anonymous);
        drop(quota.take_anonymous(here).expect("available again"));
        let anonymous = quota.0.anonymous.lock();
        assert!(anonymous.by_network.is_empty() && anonymous.total == 0);
    }

    #[test]
    fn one_address_cannot_use_up_the_quota_of_anonymous_sockets() {
        let quota = Quota::new(1, 200);
        let take_all = |addresses: &mut dyn Iterator<Item = String>| {
            let taken = addresses.map(|text| quota.take_anonymous(address(&text)));
            taken.filter_map(Result::ok).collect::<Vec<_>>()
        };
        let one = take_all(&mut (0..300).map(|_| "192.0.2.1".to_owned()));
        assert_eq!(one.len(), 20, "a tenth");
        assert_eq!(quota.take_anonymous(address("192.0.2.1")).err(), Some(Refusal::Address));
        let network = take_all(&mut (0..300).map(|host| format!("2001:db8::{host:x}")));
        assert_eq!(network.len(), 20, "a host has a whole /64 network");
        let others = take_all(&mut (1..=250).map(|host| format!("198.51.100.{host}")));
        assert_eq!(others.len(), 160, "the rest of the quota");
        assert_eq!(quota.take_anonymous(address("203.0.113.1")).err(), Some(Refusal::Everyone));
        drop(one);
        assert!(quota.take_anonymous(address("203.0.113.1")).is_ok());
    }
}
