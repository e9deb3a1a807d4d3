//! Cache of verified access tokens: the signature of a token is verified once, not with every request.
//!
//! The cache changes no answer. It holds only tokens that passed every check, by their whole text, and a hit
//! repeats the checks that depend on time or on the key set. A token that is not found, or whose entry is not
//! valid any more, is verified from the start.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, RandomState},
};

use parking_lot::RwLock;

use crate::{
    Caller,
    token::{SIZE_MAX, Verified},
};

/// Maximum number of tokens in the cache.
const TOKENS_MAX: usize = 32_768;
/// Maximum size of the cache in bytes.
const BYTES_MAX: usize = 16 << 20;
/// Size of an entry beside the text of its token, in bytes.
const ENTRY_BYTES: usize = 128;

/// Verified tokens of one issuer. `Debug` shows only their number.
pub(crate) struct VerifiedTokens {
    hasher: RandomState,
    halves: RwLock<Halves>,
}

/// The entries in two halves. A full half of recent entries replaces the older ones; an older entry that is
/// used becomes a recent one. So what is dropped was not used while half of the cache was filled.
#[derive(Default)]
struct Halves {
    recent: Half,
    older: Half,
}

/// Entries by the whole hash of their token. The hash has a random key: a client can neither choose tokens
/// that collide, nor learn from the time of a comparison how much of its token is right, because tokens are
/// compared only if their hashes are equal.
#[derive(Default)]
struct Half {
    entries: HashMap<u64, Entry>,
    size_bytes: usize,
}

struct Entry {
    token: Box<str>,
    verified: Verified,
}

impl Default for VerifiedTokens {
    fn default() -> Self {
        Self { hasher: RandomState::new(), halves: RwLock::default() }
    }
}

impl fmt::Debug for VerifiedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let halves = self.halves.read();
        write!(f, "VerifiedTokens({})", halves.recent.entries.len() + halves.older.entries.len())
    }
}

impl VerifiedTokens {
    /// Returns the caller of a token that was verified with the keys of this revision of the key set, if it
    /// is valid at `now_s`.
    pub(crate) fn find(&self, token: &str, keys_revision: u64, now_s: i64) -> Option<Caller> {
        // A longer text is no token: it is not worth a hash.
        if token.len() > SIZE_MAX {
            return None;
        }
        let hash = self.hasher.hash_one(token);
        let halves = self.halves.read();
        let (verified, is_older) = match halves.recent.find(hash, token) {
            Some(verified) => (verified, false),
            None => (halves.older.find(hash, token)?, true),
        };
        drop(halves);
        if !verified.is_valid(keys_revision, now_s) {
            return None;
        }
        if is_older {
            self.renew(hash);
        }
        Some(verified.caller)
    }

    /// Adds a verified token.
    pub(crate) fn insert(&self, token: &str, verified: Verified) {
        let hash = self.hasher.hash_one(token);
        let dropped = self.halves.write().insert(hash, Entry { token: token.into(), verified });
        // After the lock is released: it may be half of the cache.
        drop(dropped);
    }

    /// Makes an older entry a recent one.
    fn renew(&self, hash: u64) {
        let mut halves = self.halves.write();
        let Some(entry) = halves.older.remove(hash) else { return };
        let dropped = halves.insert(hash, entry);
        drop(halves);
        drop(dropped);
    }
}

impl Halves {
    /// Adds a recent entry. Returns the older entries if there is no room for them any more.
    fn insert(&mut self, hash: u64, entry: Entry) -> Half {
        let size_bytes = self.recent.size_bytes + entry.size_bytes();
        let is_full = self.recent.entries.len() >= TOKENS_MAX / 2 || size_bytes > BYTES_MAX / 2;
        let dropped = if is_full {
            std::mem::replace(&mut self.older, std::mem::take(&mut self.recent))
        } else {
            Half::default()
        };
        self.recent.insert(hash, entry);
        dropped
    }
}

impl Half {
    fn find(&self, hash: u64, token: &str) -> Option<Verified> {
        let entry = self.entries.get(&hash)?;
        (*entry.token == *token).then_some(entry.verified)
    }

    fn insert(&mut self, hash: u64, entry: Entry) {
        self.size_bytes += entry.size_bytes();
        if let Some(replaced) = self.entries.insert(hash, entry) {
            self.size_bytes -= replaced.size_bytes();
        }
    }

    fn remove(&mut self, hash: u64) -> Option<Entry> {
        let entry = self.entries.remove(&hash)?;
        self.size_bytes -= entry.size_bytes();
        Some(entry)
    }
}

impl Entry {
    fn size_bytes(&self) -> usize {
        self.token.len() + ENTRY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const NOW_S: i64 = 1_800_000_000;

    fn verified(number: u128) -> Verified {
        let session = Uuid::from_u128(number);
        let caller = Caller { user: Uuid::from_u128(number), session, expires_at_s: NOW_S + 300 };
        Verified { caller, valid_from_s: NOW_S - 60, keys_revision: 1 }
    }

    fn found(tokens: &VerifiedTokens, token: &str) -> Option<u128> {
        tokens.find(token, 1, NOW_S).map(|caller| caller.user.as_u128())
    }

    fn count(tokens: &VerifiedTokens) -> usize {
        let halves = tokens.halves.read();
        halves.recent.entries.len() + halves.older.entries.len()
    }

    #[test]
    fn a_token_is_found_by_its_whole_text() {
        let tokens = VerifiedTokens::default();
        for number in 0..1_000 {
            tokens.insert(&format!("header.{number}.signature"), verified(number));
        }
        for number in 0..1_000 {
            assert_eq!(found(&tokens, &format!("header.{number}.signature")), Some(number));
        }
        for other in ["", "header", "header.7.signatur", "header.7.signature ", "header.7.signaturE"] {
            assert_eq!(found(&tokens, other), None, "{other:?}");
        }
    }

    #[test]
    fn tokens_of_one_hash_are_not_confused() {
        let mut half = Half::default();
        half.insert(7, Entry { token: "one".into(), verified: verified(1) });
        assert_eq!(half.find(7, "two"), None);
        half.insert(7, Entry { token: "two".into(), verified: verified(2) });
        assert_eq!(half.find(7, "one"), None, "the last one stays");
        assert_eq!(half.find(7, "two"), Some(verified(2)));
        assert_eq!(half.size_bytes, "two".len() + ENTRY_BYTES);
    }

    #[test]
    fn an_entry_is_valid_while_its_token_and_its_key_are() {
        let tokens = VerifiedTokens::default();
        tokens.insert("token", verified(1));
        for (revision, now_s, is_found) in [
            (1, NOW_S, true),
            (1, NOW_S + 299, true),
            (1, NOW_S + 300, false),
            (1, NOW_S - 60, true),
            (1, NOW_S - 61, false),
            (0, NOW_S, false),
            (2, NOW_S, false),
            (1, i64::MAX, false),
            (1, i64::MIN, false),
        ] {
            let found = tokens.find("token", revision, now_s);
            assert_eq!(found.is_some(), is_found, "{revision} {now_s}");
        }
    }

    #[test]
    fn the_number_of_tokens_is_limited_and_used_ones_stay() {
        let tokens = VerifiedTokens::default();
        tokens.insert("used", verified(1));
        for number in 0..3 * TOKENS_MAX {
            tokens.insert(&number.to_string(), verified(0));
            assert!(number % 1_000 > 0 || found(&tokens, "used") == Some(1), "{number}");
        }
        let count = count(&tokens);
        assert!((TOKENS_MAX / 2..=TOKENS_MAX).contains(&count), "{count}");
        assert_eq!(found(&tokens, "7"), None, "it was not used");
    }

    #[test]
    fn the_size_is_limited() {
        let tokens = VerifiedTokens::default();
        let padding = "x".repeat(4_000);
        for number in 0..20_000 {
            tokens.insert(&format!("{number} {padding}"), verified(0));
        }
        let halves = tokens.halves.read();
        let size_of = |half: &Half| half.entries.values().map(Entry::size_bytes).sum::<usize>();
        for half in [&halves.recent, &halves.older] {
            assert_eq!(half.size_bytes, size_of(half));
            assert!(half.size_bytes <= BYTES_MAX / 2);
        }
        assert!(halves.recent.size_bytes + halves.older.size_bytes > BYTES_MAX / 2);
    }

    #[test]
    fn debug_output_shows_no_token() {
        let tokens = VerifiedTokens::default();
        tokens.insert("hidden", verified(1));
        assert_eq!(format!("{tokens:?}"), "VerifiedTokens(1)");
    }
}
