//! Passwords: argon2id (19 MiB, two passes, one lane), off the threads that serve requests and at most one per core at a
//! time, so that a rush of sign-ins takes neither all memory nor all processors. Who waits too long is told to come again.
//!
//! Every check does the work of one hash, also where there is no hash to check against.

use std::{fmt, sync::Arc, time::Duration};

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version,
    password_hash::{Error::PasswordInvalid, Result as Hashed},
};
use tokio::{sync::Semaphore, time::Instant};

use crate::Error;

const LENGTH_MIN: usize = 8;
const LENGTH_MAX: usize = 256;
/// 19 MiB, two passes, one lane: what OWASP asks of argon2id at least.
const PARAMS: Params = match Params::new(19 * 1024, 2, 1, None) {
    Ok(params) => params,
    Err(_) => panic!("these parameters are within argon2's bounds"),
};
/// How long a sign-in waits for its turn.
const WAIT: Duration = Duration::from_secs(2);

/// A password as a person types it: 8 to 256 characters, no control characters. Debug never shows it.
pub(crate) struct Password(String);

impl Password {
    /// Reads a password.
    ///
    /// # Errors
    /// [`Error::Invalid`] out of its bounds.
    pub(crate) fn parse(text: String) -> Result<Self, Error> {
        let fits = text.chars().nth(LENGTH_MIN - 1).is_some() && text.chars().nth(LENGTH_MAX).is_none();
        if !fits || text.chars().any(char::is_control) {
            return Err(Error::Invalid(
                "a password has 8 to 256 characters, none of them control characters",
            ));
        }
        Ok(Self(text))
    }

    /// Stands where what was typed is nobody's password, so that the work is the same.
    pub(crate) fn nobodys() -> Self {
        Self(String::new())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// What is stored of a password: a PHC string. Debug never shows it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Hash(String);

impl Hash {
    /// A hash that comes from the database.
    pub(crate) fn stored(text: String) -> Self {
        Self(text)
    }

    /// The text, for the database.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// A hash of no password, with the parameters of every other: an output that nobody finds an input for.
    fn nobodys() -> Self {
        Self(format!("$argon2id$v=19${PARAMS}$AAAAAAAAAAAAAAAAAAAAAA${}", "A".repeat(43)))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash(…)")
    }
}

/// Hashes and checks passwords, a bounded number at a time. Clones share the bound.
#[derive(Debug, Clone)]
pub(crate) struct Passwords {
    turns: Arc<Semaphore>,
    wait: Duration,
}

impl Passwords {
    /// One at a time per core.
    pub(crate) fn new() -> Self {
        Self::with_bounds(std::thread::available_parallelism().map_or(1, usize::from), WAIT)
    }

    fn with_bounds(at_once: usize, wait: Duration) -> Self {
        Self { turns: Arc::new(Semaphore::new(at_once)), wait }
    }

    /// Hashes a password with a new salt.
    ///
    /// # Errors
    /// [`Error::Busy`] where its turn does not come in time.
    pub(crate) async fn hash(&self, password: Password) -> Result<Hash, Error> {
        self.work("hash", move || Ok(Hash(argon2().hash_password(password.0.as_bytes())?.to_string()))).await
    }

    /// Whether the password is the one that was hashed. Without a hash it is not, after the same work.
    ///
    /// # Errors
    /// [`Error::Busy`] where its turn does not come in time.
    pub(crate) async fn verify(&self, password: Password, hash: Option<Hash>) -> Result<bool, Error> {
        let is_known = hash.is_some();
        let hash = hash.unwrap_or_else(Hash::nobodys);
        let check =
            move || match argon2().verify_password(password.0.as_bytes(), &PasswordHash::new(&hash.0)?) {
                Ok(()) => Ok(true),
                Err(PasswordInvalid) => Ok(false),
                Err(error) => Err(error),
            };
        Ok(self.work("verify", check).await? && is_known)
    }

    /// Waits for a turn, then works on a thread for blocking work. The turn lasts until the work is done, also where the
    /// caller leaves.
    async fn work<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> Hashed<T> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = tokio::time::timeout(self.wait, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(turn) = turn else {
            metrics::counter!("auth_password_busy_total").increment(1);
            return Err(Error::Busy);
        };
        let turn = turn.expect("the semaphore is never closed");
        let begun = Instant::now();
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        let done =
            done.await.expect("hashing does not panic, and blocking work that has begun is not cancelled");
        metrics::counter!("auth_password_work_total", "work" => name).increment(1);
        metrics::histogram!("auth_password_work_seconds", "work" => name).record(begun.elapsed());
        done.map_err(Error::Hashing)
    }
}

fn argon2() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, PARAMS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::parse(text.to_owned()).unwrap()
    }

    #[test]
    fn a_password_has_8_to_256_characters_and_one_line() {
        for good in ["12345678", "correct horse 🐎", &"ß".repeat(256)] {
            assert!(Password::parse(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "1234567", "🐎🐎🐎🐎🐎🐎🐎", "1234567\0", "12345678\n", &"ß".repeat(257)]
        {
            assert!(matches!(Password::parse(bad.to_owned()), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_hash_knows_its_password_and_no_other() {
        let passwords = Passwords::new();
        let hash = passwords.hash(password("correct horse")).await.unwrap();
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.as_str());
        assert_ne!(
            passwords.hash(password("correct horse")).await.unwrap(),
            hash,
            "every hash has its own salt"
        );
        assert!(passwords.verify(password("correct horse"), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify(password("correct horsf"), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify(Password::nobodys(), Some(hash)).await.unwrap());
        let damaged = Hash::stored("$argon2id$damaged".to_owned());
        assert!(matches!(
            passwords.verify(password("correct horse"), Some(damaged)).await,
            Err(Error::Hashing(_))
        ));
    }

    #[tokio::test]
    async fn nobodys_hash_costs_what_every_other_costs_and_fits_no_password() {
        let hash = Hash::nobodys();
        let parsed = PasswordHash::new(hash.as_str()).unwrap();
        let real = argon2().hash_password(b"correct horse").unwrap();
        assert_eq!(
            (parsed.algorithm, parsed.version, parsed.params),
            (real.algorithm, real.version, real.params)
        );
        assert_eq!(parsed.hash.unwrap().len(), real.hash.unwrap().len());
        assert_eq!(parsed.salt.unwrap().len(), real.salt.unwrap().len());
        assert!(!Passwords::new().verify(password("correct horse"), None).await.unwrap());
        assert!(!Passwords::new().verify(Password::nobodys(), None).await.unwrap());
    }

    #[tokio::test]
    async fn who_waits_too_long_is_told_so_and_a_turn_lasts_as_long_as_its_work() {
        let passwords = Passwords::with_bounds(1, Duration::from_millis(20));
        let (finish, finished) = std::sync::mpsc::channel::<()>();
        let (begin, begun) = tokio::sync::oneshot::channel();
        let busy = tokio::spawn({
            let passwords = passwords.clone();
            async move {
                let work = move || {
                    begin.send(()).expect("somebody waits");
                    finished.recv().expect("somebody finishes");
                    Ok(())
                };
                passwords.work("verify", work).await
            }
        });
        begun.await.unwrap();
        busy.abort();
        assert!(busy.await.unwrap_err().is_cancelled());
        assert!(matches!(passwords.hash(password("correct horse")).await, Err(Error::Busy)));
        finish.send(()).unwrap();
        testkit::eventually("the turn is free again", || async { passwords.turns.available_permits() == 1 })
            .await;
        assert!(passwords.hash(password("correct horse")).await.is_ok());
    }

    #[test]
    fn debug_shows_neither_password_nor_hash() {
        let shown = format!("{:?} {:?}", password("correct horse"), Hash::nobodys());
        assert_eq!(shown, "Password(…) Hash(…)");
    }
}
