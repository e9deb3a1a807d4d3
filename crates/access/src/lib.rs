//! Authentication: access tokens (JWTs signed with Ed25519), the keys that sign and verify them, the
//! token that services send each other, and the [`Guard`] that turns a request's metadata into a
//! [`Caller`].
//!
//! A token's `sub` claim is a user, its `sid` claim one of that user's sessions. Authorization is
//! decided by the services, not here.

mod bearer;
mod error;
mod guard;
mod key_set;
mod public_keys;
mod secret_file;
mod service_token;
mod signing;
mod token;
mod verified_tokens;

pub use bearer::bearer_token;
pub use error::{Error, Rejection};
pub use guard::Guard;
pub use key_set::{BoxError, KeySet};
pub use service_token::ServiceToken;
pub use signing::{RotationError, SigningKeys};
pub use token::{AUDIENCE, Caller, Claims};
