//! The client at the other end of a connection: its address, its user agent, the origin of its page, the
//! caller it has authenticated as, and its rate limits. Every transport asks here before an operation is
//! parsed.

pub mod address;
pub mod caller;
pub mod origins;
pub mod rate_limits;
pub mod revocation;
pub mod revoked_sessions;
pub mod user_agent;

use std::net::IpAddr;

use caller::Caller;
use user_agent::UserAgent;

/// The client that sent a request.
#[derive(Debug, Clone)]
pub struct Client {
    /// The authenticated caller, `None` for an anonymous client.
    pub caller: Option<Caller>,
    /// The client's address, as far as the trusted proxies report it.
    pub address: IpAddr,
    /// The client's user agent.
    pub user_agent: UserAgent,
}
