//! Who may call: access tokens (JWTs signed with Ed25519), the keys that sign and verify them, the token that services
//! show each other, and the [`Guard`] that turns a request's metadata into a [`Caller`]. A subject is a person, a `sid`
//! one of that person's sessions; what they may do is not decided here.

mod error;
mod guard;
mod key_set;
mod secret_file;
mod service_token;
mod signing;
mod token;

pub use error::{Error, Refused};
pub use guard::Guard;
pub use key_set::{BoxError, KeySet};
pub use service_token::ServiceToken;
pub use signing::SigningKeys;
pub use token::{AUDIENCE, Caller, Claims};
