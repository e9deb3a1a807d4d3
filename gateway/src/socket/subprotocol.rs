//! The two subprotocols that a socket may speak. They differ in their words and in what their clients take for granted; the
//! machine in [`super::protocol`] is one for both.

use std::time::Duration;

/// A subprotocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subprotocol {
    /// `graphql-transport-ws`, as the npm package `graphql-ws` speaks it.
    New,
    /// `graphql-ws`, as the npm package `subscriptions-transport-ws` speaks it: GraphQL Playground and older Apollo clients.
    Old,
}

impl Subprotocol {
    /// Both, the newer first.
    pub const ALL: [Self; 2] = [Self::New, Self::Old];

    /// The name in `Sec-WebSocket-Protocol`.
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "graphql-transport-ws",
            Self::Old => "graphql-ws",
        }
    }

    /// The first of what a client offers that is one of ours.
    pub fn choose<'a>(mut offered: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        offered
            .find_map(|name| Self::ALL.into_iter().find(|subprotocol| subprotocol.name().as_bytes() == name))
    }

    /// How often the gateway says that it is there, and asks whether the client is. The old protocol's clients drop a
    /// connection on which nothing of that kind came for as long as their `timeout`: 30 s, in GraphQL Playground 20 s.
    pub fn alive_every(self) -> Duration {
        match self {
            Self::New => Duration::from_secs(20),
            Self::Old => Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_name_is_chosen_and_no_other() {
        let choose = |offered: &[&str]| Subprotocol::choose(offered.iter().map(|name| name.as_bytes()));
        assert_eq!(choose(&["graphql-transport-ws"]), Some(Subprotocol::New));
        assert_eq!(choose(&["graphql-ws"]), Some(Subprotocol::Old));
        assert_eq!(choose(&["mqtt", "graphql-ws", "graphql-transport-ws"]), Some(Subprotocol::Old));
        assert_eq!(choose(&["graphql-transport-ws", "graphql-ws"]), Some(Subprotocol::New));
        assert_eq!(choose(&["GraphQL-WS", "graphql", ""]), None);
        assert_eq!(choose(&[]), None);
    }
}
