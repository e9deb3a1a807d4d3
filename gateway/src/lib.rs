//! The gateway: GraphQL for people, over the services that hold the data. A hub pushes what changes to those who watch.

pub mod batch;
pub mod cursor;
pub mod error;
pub mod floor;
pub mod ide;
pub mod loaders;
pub mod peers;
pub mod pipeline;
pub mod schema;
pub mod turn;
pub mod version;
pub mod viewer;
