//! The two supported subprotocols. They differ in their message types and in what their clients rely on;
//! the state machine ([`super::protocol`]) serves both.

use std::time::Duration;

/// A WebSocket subprotocol of GraphQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subprotocol {
    /// `graphql-transport-ws`, spoken by the npm package `graphql-ws`.
    GraphqlTransportWs,
    /// `graphql-ws`, spoken by the npm package `subscriptions-transport-ws`: GraphQL Playground and
    /// older Apollo clients.
    GraphqlWs,
}

impl Subprotocol {
    /// Both subprotocols, the newer first.
    pub const ALL: [Self; 2] = [Self::GraphqlTransportWs, Self::GraphqlWs];

    /// Returns the name in `Sec-WebSocket-Protocol`.
    pub fn name(self) -> &'static str {
        match self {
            Self::GraphqlTransportWs => "graphql-transport-ws",
            Self::GraphqlWs => "graphql-ws",
        }
    }

    /// Returns the first supported subprotocol of a client's offer.
    pub fn choose<'a>(mut offered: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        offered
            .find_map(|name| Self::ALL.into_iter().find(|subprotocol| subprotocol.name().as_bytes() == name))
    }

    /// Returns the interval of the gateway's keep-alive messages. Clients of `graphql-ws` drop a
    /// connection that receives none within their `timeout`: 30 s by default, 20 s in GraphQL
    /// Playground.
    pub fn keep_alive_interval(self) -> Duration {
        match self {
            Self::GraphqlTransportWs => Duration::from_secs(20),
            Self::GraphqlWs => Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_supported_subprotocol_is_chosen() {
        let choose = |offered: &[&str]| Subprotocol::choose(offered.iter().map(|name| name.as_bytes()));
        assert_eq!(choose(&["graphql-transport-ws"]), Some(Subprotocol::GraphqlTransportWs));
        assert_eq!(choose(&["graphql-ws"]), Some(Subprotocol::GraphqlWs));
        assert_eq!(choose(&["mqtt", "graphql-ws", "graphql-transport-ws"]), Some(Subprotocol::GraphqlWs));
        assert_eq!(choose(&["graphql-transport-ws", "graphql-ws"]), Some(Subprotocol::GraphqlTransportWs));
        assert_eq!(choose(&["GraphQL-WS", "graphql", ""]), None);
        assert_eq!(choose(&[]), None);
    }
}
