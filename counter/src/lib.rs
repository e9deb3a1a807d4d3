//! The counter: unread counts, exact after every transaction, and the pointers of who has read up to where.

pub mod kernel;
