//! The gateway: GraphQL for people, over the services that hold the data. A hub pushes what changes to those who watch.

pub mod error;
pub mod ide;
pub mod peers;
pub mod pipeline;
pub mod schema;
pub mod version;
pub mod viewer;
