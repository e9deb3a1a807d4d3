//! Client of a sign-in: the network of its address, as the gateway names it, and the time until which it
//! waits. Known addresses and the queue of password work are counted by it.

use std::net::{IpAddr, Ipv6Addr};

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::password::{Origin, Requester};

/// An IPv4 address, or the /64 network of an IPv6 address: a host chooses the lower 64 bits itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network(IpAddr);

impl Network {
    /// Parses an address of 4 or 16 bytes. Returns `None` for any other length.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
        Some(Self::of(v4.or_else(|_| v6()).ok()?))
    }

    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                Self(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into())
            }
            address => Self(address),
        }
    }

    /// Returns the first 24 bits of a hash of the network and `salt`. They are kept in place of the address
    /// and name 256 IPv4 addresses, so a copy of the database does not say where a person signs in. Another
    /// address is taken for a known one once in 2^24.
    pub(crate) fn hash(self, salt: &[u8]) -> Vec<u8> {
        let hasher = Sha256::new_with_prefix(b"tidings known address\0").chain_update(salt);
        let digest = match self.0 {
            IpAddr::V4(address) => hasher.chain_update(address.octets()).finalize(),
            IpAddr::V6(address) => hasher.chain_update(address.octets()).finalize(),
        };
        digest.into_iter().take(3).collect()
    }
}

/// Client of a sign-in.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Client {
    /// `None` if no service vouches for an address.
    pub network: Option<Network>,
    /// Time after which it no longer waits for the answer.
    pub deadline: Option<Instant>,
}

impl Client {
    /// Returns the requester of password work for this client.
    pub(crate) fn requester(&self, is_known: bool) -> Requester {
        let origin = self.network.map_or(Origin::Unknown, |network| Origin::Network(network.0));
        Requester { origin, is_known, deadline: self.deadline }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Option<Network> {
        match text.parse().unwrap() {
            IpAddr::V4(address) => Network::parse(&address.octets()),
            IpAddr::V6(address) => Network::parse(&address.octets()),
        }
    }

    #[test]
    fn addresses_of_one_network_are_one_and_other_bytes_are_none() {
        for (one, other, same) in [
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
        ] {
            assert_eq!(network(one) == network(other), same, "{one} {other}");
        }
        for bytes in [&[][..], &[1; 3], &[1; 5], &[1; 17]] {
            assert_eq!(Network::parse(bytes), None);
        }
    }

    #[test]
    fn a_hash_depends_on_the_network_and_the_salt_and_has_24_bits() {
        let hash = |text: &str, salt: &[u8]| network(text).unwrap().hash(salt);
        assert_eq!(hash("192.0.2.1", b"ann").len(), 3);
        assert_eq!(hash("2001:db8::1", b"ann"), hash("2001:db8::2", b"ann"));
        assert_ne!(hash("192.0.2.1", b"ann"), hash("192.0.2.2", b"ann"));
        assert_ne!(hash("192.0.2.1", b"ann"), hash("192.0.2.1", b"bob"));
    }
}
