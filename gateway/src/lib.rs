//! The gateway: GraphQL for people, over the services that hold the data. A hub pushes what changes to those who watch.

pub mod batch;
pub mod check;
pub mod cursor;
pub mod documents;
pub mod error;
pub mod floor;
pub mod hub;
pub mod ide;
pub mod limits;
pub mod loaders;
pub mod peers;
pub mod pipeline;
pub mod scan;
pub mod schema;
pub mod shape;
pub mod turn;
pub mod socket;
pub mod variables;
pub mod version;
pub mod viewer;
