//! IP address of a client: the peer of the connection or, behind trusted proxies, the address that they
//! report in `X-Forwarded-For`. Rate limits of anonymous requests and of sign-ins are counted by it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{Extensions, HeaderMap},
    middleware::Next,
    response::Response,
};

/// Header to which each proxy appends the address of its peer.
const FORWARDED: &str = "x-forwarded-for";

/// Address of a request without a connection, such as one that a test sends to the router.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Address of the client that sent a request, stored in the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address(pub IpAddr);

impl Address {
    /// Returns the address in the extensions of a request, or 0.0.0.0 if [`find`] has not run.
    pub fn of(extensions: &Extensions) -> IpAddr {
        extensions.get::<Self>().map_or(UNKNOWN, |address| address.0)
    }
}

/// Middleware that stores the client's [`Address`] in the request's extensions. It expects the peer of the
/// connection there, as axum's `ConnectInfo`. All requests without one share the address 0.0.0.0.
pub async fn find(State(trusted): State<TrustedProxies>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(UNKNOWN, |peer| peer.0.ip());
    let address = Address(trusted.client(peer, request.headers()));
    request.extensions_mut().insert(address);
    next.run(request).await
}

/// Returns the address by which a client is counted: an IPv4 address, or the /64 network of an IPv6
/// address. A host chooses the lower 64 bits itself and could otherwise evade a limit with a new address
/// per request.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

/// Proxies whose `X-Forwarded-For` header is trusted. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Arc<[Network]>);

/// Error of a malformed list of proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("proxies are IP addresses and networks such as 10.0.0.0/8, separated by commas")]
pub struct InvalidProxies;

/// Network in CIDR notation: an address and the length of its prefix in bits.
#[derive(Debug, Clone, Copy)]
struct Network {
    address: IpAddr,
    prefix_bits: u32,
}

impl TrustedProxies {
    /// Returns the client's address for a connection from `peer`: the right-most forwarded address that is
    /// not a trusted proxy. Addresses further left are not used, because the client can forge them. A
    /// malformed entry ends the search, and the proxy that reported it counts as the client.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut nearest = peer.to_canonical();
        let values = headers.get_all(FORWARDED).iter().rev();
        let mut entries = values.flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
        while self.trusts(nearest) {
            match entries.next().and_then(parse_address) {
                Some(address) => nearest = address,
                None => break,
            }
        }
        nearest
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

impl FromStr for TrustedProxies {
    type Err = InvalidProxies;

    fn from_str(text: &str) -> Result<Self, InvalidProxies> {
        let network = |text: &str| {
            let (address, prefix_bits) =
                text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
            let address: IpAddr = address.parse().map_err(|_| InvalidProxies)?;
            let size = if address.is_ipv4() { 32 } else { 128 };
            let prefix_bits = prefix_bits.map_or(Ok(size), str::parse).map_err(|_| InvalidProxies)?;
            if prefix_bits <= size { Ok(Network { address, prefix_bits }) } else { Err(InvalidProxies) }
        };
        let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
        Ok(Self(texts.map(network).collect::<Result<Vec<_>, _>>()?.into()))
    }
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        let (difference, size) = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (u128::from(own.to_bits() ^ other.to_bits()), 32),
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits(), 128),
            _ => return false,
        };
        // A shift by the full width, for a prefix of 0 bits, overflows: every address is in that network.
        difference.checked_shr(size - self.prefix_bits).unwrap_or_default() == 0
    }
}

/// Parses an address as proxies write it: bare, in brackets, or with a port.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse().ok().or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &str, peer: &str, forwarded: &[&str]) -> String {
        let trusted: TrustedProxies = trusted.parse().expect("valid proxies");
        let headers = forwarded.iter().map(|value| {
            (FORWARDED.parse().expect("a valid header name"), value.parse().expect("a valid header value"))
        });
        trusted.client(peer.parse().expect("a valid address"), &headers.collect()).to_string()
    }

    #[test]
    fn only_trusted_proxies_may_forward_the_address_of_a_client() {
        for (trusted, peer, forwarded, expected) in [
            ("", "192.0.2.1", &["198.51.100.7"][..], "192.0.2.1"),
            ("10.0.0.0/8", "192.0.2.1", &["198.51.100.7"], "192.0.2.1"),
            ("10.0.0.0/8", "10.1.2.3", &["198.51.100.7"], "198.51.100.7"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", &["198.51.100.7"], "198.51.100.7"),
            ("10.0.0.0/8", "10.1.2.3", &["6.6.6.6, 198.51.100.7, 10.9.9.9"], "198.51.100.7"),
            ("10.0.0.0/8", "10.1.2.3", &["6.6.6.6, 198.51.100.7", "10.9.9.9"], "198.51.100.7"),
            ("10.0.0.0/8", "10.1.2.3", &["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
            ("10.0.0.0/8", "10.1.2.3", &[], "10.1.2.3"),
            ("10.0.0.0/8", "10.1.2.3", &["198.51.100.7, unknown"], "10.1.2.3"),
            ("10.0.0.0/8", "10.1.2.3", &["198.51.100.7:1234"], "198.51.100.7"),
            ("10.0.0.0/8", "10.1.2.3", &["[2001:db8::1]:1234"], "2001:db8::1"),
            ("10.0.0.0/8", "10.1.2.3", &["[2001:db8::1]"], "2001:db8::1"),
            ("127.0.0.1, ::1", "127.0.0.1", &["198.51.100.7, ::1"], "198.51.100.7"),
            ("fd00::/8", "fd12::1", &["198.51.100.7"], "198.51.100.7"),
            ("fd00::/8", "fe12::1", &["198.51.100.7"], "fe12::1"),
            ("0.0.0.0/0", "192.0.2.1", &["198.51.100.7"], "198.51.100.7"),
        ] {
            assert_eq!(client(trusted, peer, forwarded), expected, "{trusted} {peer} {forwarded:?}");
        }
    }

    #[test]
    fn a_malformed_list_of_proxies_is_rejected() {
        for wrong in
            ["haproxy", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0.0/8/8", "10.0.0/8", "1.2.3.4:80"]
        {
            assert_eq!(wrong.parse::<TrustedProxies>().map(drop), Err(InvalidProxies), "{wrong}");
        }
    }
}
