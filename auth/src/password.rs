//! Password hashing: argon2id (19 MiB, two passes, one lane) on the blocking thread pool, at most one
//! hash per core at a time. A burst of sign-ins therefore exhausts neither memory nor CPU; a request
//! that waits too long is refused as busy.
//!
//! Every verification costs one hash, even if there is no stored hash to compare with.

use std::{fmt, sync::Arc, time::Duration};

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version,
    password_hash::{Error::PasswordInvalid, Result as Hashed},
};
use tokio::{sync::Semaphore, time::Instant};

use crate::Error;

const LENGTH_MIN: usize = 8;
const LENGTH_MAX: usize = 256;
/// 19 MiB, two passes, one lane: OWASP's minimum for argon2id.
const PARAMS: Params = match Params::new(19 * 1024, 2, 1, None) {
    Ok(params) => params,
    Err(_) => panic!("these parameters are within argon2's limits"),
};
/// Longest wait for a hashing permit. Leaves time for the hash within the gateway's deadline of 5 s.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Plain-text password: 8 to 256 characters, no control characters. `Debug` redacts it.
pub(crate) struct Password(String);

impl Password {
    /// Parses a password.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the length is outside the limits, or for a control character.
    pub(crate) fn parse(text: String) -> Result<Self, Error> {
        let has_valid_length =
            text.chars().nth(LENGTH_MIN - 1).is_some() && text.chars().nth(LENGTH_MAX).is_none();
        if !has_valid_length || text.chars().any(char::is_control) {
            return Err(Error::Invalid(
                "a password has 8 to 256 characters, none of them control characters",
            ));
        }
        Ok(Self(text))
    }

    /// Returns a password that matches no hash, for a verification that must fail after the usual work.
    pub(crate) fn dummy() -> Self {
        Self(String::new())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Stored hash of a password, a PHC string. `Debug` redacts it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Hash(String);

impl Hash {
    /// Wraps a hash from the database. It is parsed when a password is verified.
    pub(crate) fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// Returns the PHC string, for the database.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns a hash that no known password has, with the same parameters, and so the same cost, as
    /// every other.
    fn dummy() -> Self {
        Self(format!("$argon2id$v=19${PARAMS}$AAAAAAAAAAAAAAAAAAAAAA${}", "A".repeat(43)))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash(…)")
    }
}

/// Hashes and verifies passwords with limited concurrency. Clones share the limit.
#[derive(Debug, Clone)]
pub(crate) struct Passwords {
    permits: Arc<Semaphore>,
    wait_max: Duration,
}

impl Passwords {
    /// Allows one hash per core at a time.
    pub(crate) fn new() -> Self {
        Self::with_limits(std::thread::available_parallelism().map_or(1, usize::from), WAIT_MAX)
    }

    fn with_limits(concurrency_max: usize, wait_max: Duration) -> Self {
        Self { permits: Arc::new(Semaphore::new(concurrency_max)), wait_max }
    }

    /// Hashes a password with a new random salt.
    ///
    /// # Errors
    /// [`Error::Busy`] if no permit becomes free within two seconds; [`Error::Hashing`].
    pub(crate) async fn hash(&self, password: Password) -> Result<Hash, Error> {
        self.run("hash", move || Ok(Hash(argon2().hash_password(password.0.as_bytes())?.to_string()))).await
    }

    /// Returns true if `hash` is a hash of the password. Without a hash it returns false, after the same
    /// work.
    ///
    /// # Errors
    /// [`Error::Busy`] if no permit becomes free within two seconds; [`Error::Hashing`] if the stored
    /// hash is malformed.
    pub(crate) async fn verify(&self, password: Password, hash: Option<Hash>) -> Result<bool, Error> {
        let has_hash = hash.is_some();
        let hash = hash.unwrap_or_else(Hash::dummy);
        let verify =
            move || match argon2().verify_password(password.0.as_bytes(), &PasswordHash::new(&hash.0)?) {
                Ok(()) => Ok(true),
                Err(PasswordInvalid) => Ok(false),
                Err(error) => Err(error),
            };
        Ok(self.run("verify", verify).await? && has_hash)
    }

    /// Waits for a permit, then runs `work` on the blocking thread pool.
    async fn run<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> Hashed<T> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = tokio::time::timeout(self.wait_max, Arc::clone(&self.permits).acquire_owned()).await;
        let Ok(permit) = permit else {
            metrics::counter!("auth_password_busy_total").increment(1);
            return Err(Error::Busy);
        };
        let permit = permit.expect("the semaphore is never closed");
        let started = Instant::now();
        // The permit moves into the closure: blocking work cannot be cancelled, so a client that
        // disconnects must not free the permit of a hash that is still being computed.
        let task = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        let result = task.await.expect("hashing does not panic, and running blocking work is not cancelled");
        metrics::counter!("auth_password_work_total", "work" => name).increment(1);
        metrics::histogram!("auth_password_work_seconds", "work" => name).record(started.elapsed());
        result.map_err(Error::Hashing)
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
    fn a_password_has_8_to_256_characters_without_control_characters() {
        for good in ["12345678", "correct horse 🐎", &"ß".repeat(256)] {
            assert!(Password::parse(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "1234567", "🐎🐎🐎🐎🐎🐎🐎", "1234567\0", "12345678\n", &"ß".repeat(257)]
        {
            assert!(matches!(Password::parse(bad.to_owned()), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_hash_matches_its_password_and_no_other() {
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
        assert!(!passwords.verify(Password::dummy(), Some(hash)).await.unwrap());
        let damaged = Hash::from_stored("$argon2id$damaged".to_owned());
        assert!(matches!(
            passwords.verify(password("correct horse"), Some(damaged)).await,
            Err(Error::Hashing(_))
        ));
    }

    #[tokio::test]
    async fn the_dummy_hash_costs_as_much_as_any_other_and_matches_no_password() {
        let hash = Hash::dummy();
        let parsed = PasswordHash::new(hash.as_str()).unwrap();
        let real = argon2().hash_password(b"correct horse").unwrap();
        assert_eq!(
            (parsed.algorithm, parsed.version, parsed.params),
            (real.algorithm, real.version, real.params)
        );
        assert_eq!(parsed.hash.unwrap().len(), real.hash.unwrap().len());
        assert_eq!(parsed.salt.unwrap().len(), real.salt.unwrap().len());
        assert!(!Passwords::new().verify(password("correct horse"), None).await.unwrap());
        assert!(!Passwords::new().verify(Password::dummy(), None).await.unwrap());
    }

    #[tokio::test]
    async fn waiting_too_long_is_busy_and_a_cancelled_call_keeps_its_permit_until_the_work_ends() {
        let passwords = Passwords::with_limits(1, Duration::from_millis(20));
        let (finish, finished) = std::sync::mpsc::channel::<()>();
        let (start, started) = tokio::sync::oneshot::channel();
        let busy = tokio::spawn({
            let passwords = passwords.clone();
            async move {
                let work = move || {
                    start.send(()).expect("the test waits for the start");
                    finished.recv().expect("the test ends the work");
                    Ok(())
                };
                passwords.run("verify", work).await
            }
        });
        started.await.unwrap();
        busy.abort();
        assert!(busy.await.unwrap_err().is_cancelled());
        assert!(matches!(passwords.hash(password("correct horse")).await, Err(Error::Busy)));
        finish.send(()).unwrap();
        testkit::eventually("the permit is released", || async {
            passwords.permits.available_permits() == 1
        })
        .await;
        assert!(passwords.hash(password("correct horse")).await.is_ok());
    }

    #[test]
    fn debug_shows_neither_password_nor_hash() {
        let shown = format!("{:?} {:?}", password("correct horse"), Hash::dummy());
        assert_eq!(shown, "Password(…) Hash(…)");
    }
}
