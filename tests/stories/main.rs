//! Stories of the whole system: the real program as a process of its own, spoken to as a browser would, over HTTP and
//! WebSocket alone. What the services may be asked by whom (`calls`) is tried on their servers, without a gateway before
//! them.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a story that cannot go on fails there; figures are printed"
)]

mod app;
mod attacks;
mod attacks_table;
mod bad_input;
mod balancer;
mod bounds;
mod cache;
mod calls;
mod calls_table;
mod codes;
mod cost;
mod device;
mod door;
mod engines;
mod envelopes;
mod followed;
mod forged;
mod gateways;
mod http;
mod kill;
mod limits;
mod live;
mod old_protocol;
mod oracle;
mod person;
mod place;
mod raw;
mod rights;
mod rights_table;
mod secrets;
mod sockets;
mod stack;
mod story;
mod streams;
mod trace;
mod transport;
