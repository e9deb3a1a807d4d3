//! Ids: distinct newtypes over UUIDs, 16 bytes on the wire, hyphenated text for people.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// Bytes or text that are no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id")]
pub struct InvalidId;

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id that sorts after those made in earlier milliseconds (UUIDv7).
            pub fn now() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id with this UUID.
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID, for the database.
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// The 16 bytes of the wire.
            pub fn bytes(self) -> Vec<u8> {
                self.0.into_bytes().to_vec()
            }

            /// Reads the 16 bytes of the wire.
            ///
            /// # Errors
            /// Where there are not 16.
            pub fn parse(bytes: &[u8]) -> Result<Self, InvalidId> {
                Uuid::from_slice(bytes).map(Self).map_err(|_| InvalidId)
            }

            /// Reads a list of ids of the wire.
            ///
            /// # Errors
            /// Where one of them is no id.
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

            /// Reads the hyphenated form alone: one spelling an id, so that ids compare as text too.
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let uuid = Uuid::try_parse(text).map_err(|_| InvalidId)?;
                (text.len() == 36).then_some(Self(uuid)).ok_or(InvalidId)
            }
        }
    )*};
}

id! {
    /// A person.
    UserId
    /// A sign-in of a person on a device: what a log-out ends.
    SessionId
    /// A conversation.
    DialogId
    /// A message.
    MessageId
    /// The saga that counts a message.
    TransactionId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = UserId::now();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(UserId::parse(&id.bytes()), Ok(id));
        let simple = id.uuid().simple().to_string();
        assert_eq!(simple.parse::<UserId>(), Err(InvalidId));
        assert_eq!(UserId::parse(&[1; 15]), Err(InvalidId));
    }
}
