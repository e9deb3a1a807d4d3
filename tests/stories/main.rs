//! Stories of the whole system: the real program as a process of its own, spoken to as a browser would, over HTTP and
//! WebSocket alone.

mod app;
mod bad_input;
mod cost;
mod device;
mod kill;
mod live;
mod oracle;
mod person;
mod story;
