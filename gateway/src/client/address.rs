//! Where a client is: the other end of the connection, unless that is one of our own proxies; then what they say.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{Extensions, HeaderMap},
    middleware::Next,
    response::Response,
};

/// The header that proxies write: whom they had on the other end, each behind those before it.
const FORWARDED: &str = "x-forwarded-for";

/// The address of what came over no connection.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The address of the client of a request, among its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address(pub IpAddr);

impl Address {
    /// That of the request with these extensions.
    pub fn of(extensions: &Extensions) -> IpAddr {
        extensions.get::<Self>().map_or(NOWHERE, |address| address.0)
    }
}

/// A middleware: finds out the client's address. The server puts the other end of the connection into the request's
/// extensions, as axum's `ConnectInfo`; a request without one has come from nowhere, and shares that with all such.
pub async fn find(State(trusted): State<TrustedProxies>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(NOWHERE, |peer| peer.0.ip());
    let address = Address(trusted.client(peer, request.headers()));
    request.extensions_mut().insert(address);
    next.run(request).await
}

/// The proxies whose word is taken. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Arc<[Network]>);

/// What is no list of proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("proxies are IP addresses and networks such as 10.0.0.0/8, separated by commas")]
pub struct InvalidProxies;

/// An address with the number of bits that count.
#[derive(Debug, Clone, Copy)]
struct Network {
    address: IpAddr,
    bits: u32,
}

impl TrustedProxies {
    /// The client's address, where the other end of the connection is this: the right-most of what was forwarded that is
    /// not one of ours. What is no address ends the list: whoever wrote it is taken.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut nearest = peer.to_canonical();
        let values = headers.get_all(FORWARDED).iter().rev();
        let mut names = values.flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
        while self.trusts(nearest) {
            match names.next().and_then(address) {
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
            let (address, bits) =
                text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
            let address: IpAddr = address.parse().map_err(|_| InvalidProxies)?;
            let size = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Ok(size), str::parse).map_err(|_| InvalidProxies)?;
            if bits <= size { Ok(Network { address, bits }) } else { Err(InvalidProxies) }
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
        difference.checked_shr(size - self.bits).unwrap_or_default() == 0
    }
}

/// An address as proxies write it: some with a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse().ok().or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &str, peer: &str, forwarded: &[&str]) -> String {
        let trusted: TrustedProxies = trusted.parse().expect("proxies");
        let headers = forwarded
            .iter()
            .map(|value| (FORWARDED.parse().expect("a name"), value.parse().expect("a value")));
        trusted.client(peer.parse().expect("an address"), &headers.collect()).to_string()
    }

    #[test]
    fn a_client_is_what_our_own_proxies_say_and_no_one_else() {
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
    fn what_is_no_list_of_proxies_is_refused() {
        for wrong in
            ["haproxy", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0.0/8/8", "10.0.0/8", "1.2.3.4:80"]
        {
            assert_eq!(wrong.parse::<TrustedProxies>().map(drop), Err(InvalidProxies), "{wrong}");
        }
    }
}
