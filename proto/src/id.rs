//! Ids: one newtype over a UUID per kind of entity, so that the compiler rejects a user id where a
//! dialog id is expected. An id is 16 bytes on the wire and the hyphenated form in text.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// Error of parsing an id: not 16 bytes, or not the hyphenated form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id")]
pub struct InvalidId;

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Generates a UUIDv7. It sorts after every id of an earlier millisecond.
            pub fn now() -> Self {
                Self(Uuid::now_v7())
            }

            /// Wraps a UUID, for ids that a database returns.
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Returns the UUID, for database parameters.
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// Returns the 16 bytes of the wire format.
            pub fn bytes(self) -> Vec<u8> {
                self.0.into_bytes().to_vec()
            }

            /// Parses the 16 bytes of the wire format.
            ///
            /// # Errors
            /// [`InvalidId`] if the length is not 16.
            pub fn parse(bytes: &[u8]) -> Result<Self, InvalidId> {
                Uuid::from_slice(bytes).map(Self).map_err(|_| InvalidId)
            }

            /// Parses a list of ids in wire format.
            ///
            /// # Errors
            /// [`InvalidId`] if any element is malformed.
            pub fn parse_all(list: &[Vec<u8>]) -> Result<Vec<Self>, InvalidId> {
                list.iter().map(|bytes| Self::parse(bytes)).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            /// Parses the hyphenated form only. An id has a single spelling, so ids can be compared as
            /// text.
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let uuid = Uuid::try_parse(text).map_err(|_| InvalidId)?;
                (text.len() == 36).then_some(Self(uuid)).ok_or(InvalidId)
            }
        }
    )*};
}

id! {
    /// A user account.
    UserId
    /// A session: one sign-in of a user on a device, ended by a log-out.
    SessionId
    /// A dialog.
    DialogId
    /// A message.
    MessageId
    /// The saga (distributed transaction) that counts a message.
    TransactionId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hyphenated_form_of_an_id_is_parsed() {
        let id = UserId::now();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(UserId::parse(&id.bytes()), Ok(id));
        let simple = id.uuid().simple().to_string();
        assert_eq!(simple.parse::<UserId>(), Err(InvalidId));
        assert_eq!(UserId::parse(&[1; 15]), Err(InvalidId));
    }
}
