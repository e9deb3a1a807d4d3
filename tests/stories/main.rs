//! Stories of the whole system: the real program as a process of its own, spoken to as a browser would, over HTTP and
//! WebSocket alone.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a story that cannot go on fails there; figures are printed"
)]

mod app;
mod bad_input;
mod cache;
mod cost;
mod device;
mod engines;
mod followed;
mod gateways;
mod kill;
mod limits;
mod live;
mod old_protocol;
mod oracle;
mod person;
mod place;
mod sockets;
mod stack;
mod story;
mod trace;
