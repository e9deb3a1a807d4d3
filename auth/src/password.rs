//! Password hashing: argon2id (19 MiB, two passes, one lane) on the blocking thread pool, at most one
//! hash per core at a time. A burst of sign-ins therefore exhausts neither memory nor CPU; a request
//! that waits too long is refused as busy.
//!
//! Every verification costs one hash, even if there is no stored hash to compare with.
//!
//! Passwords are normalised by the profile OpaqueString of RFC 8265, so that the same text matches from
//! every keyboard and operating system.

use std::{fmt, sync::Arc, time::Duration};

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version,
    password_hash::{Error::PasswordInvalid, Result as Hashed},
};
use precis_profiles::{OpaqueString, precis_core::profile::Profile};
use tokio::{sync::Semaphore, time::Instant};

use crate::Error;

const LENGTH_MIN: usize = 8;
const LENGTH_MAX: usize = 256;
/// Longest text that is normalised, in characters. Normalisation merges at most four characters into one,
/// so a longer text exceeds [`LENGTH_MAX`] in any form. The context rules of PRECIS take quadratic time.
const TEXT_MAX: usize = 4 * LENGTH_MAX;
/// 19 MiB, two passes, one lane: OWASP's minimum for argon2id.
const PARAMS: Params = match Params::new(19 * 1024, 2, 1, None) {
    Ok(params) => params,
    Err(_) => panic!("these parameters are within argon2's limits"),
};
/// Longest wait for a hashing permit. Leaves time for the hash within the gateway's deadline of 5 s.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Plain-text password: 8 to 256 characters, no control characters. `Debug` redacts it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(String);

impl Password {
    /// Parses a password and normalises it (RFC 8265, section 4.2): other spaces become U+0020, then
    /// Unicode NFC. Case and width are kept.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the length of the normalised form is outside the limits, or for a control
    /// character or another code point outside the FreeformClass of RFC 8264.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        Self::normalise(text).ok_or(Error::Invalid(
            "a password has 8 to 256 characters, none of them control characters or invisible",
        ))
    }

    fn normalise(text: &str) -> Option<Self> {
        if text.chars().nth(TEXT_MAX).is_some() {
            return None;
        }
        let normalised = OpaqueString::new().enforce(text).ok()?;
        has_valid_length(&normalised).then(|| Self(normalised.into_owned()))
    }

    /// Parses a text by the rules from before passwords were normalised.
    pub(crate) fn unnormalised(text: String) -> Option<Self> {
        let is_valid = has_valid_length(&text) && !text.chars().any(char::is_control);
        is_valid.then_some(Self(text))
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

fn has_valid_length(text: &str) -> bool {
    text.chars().nth(LENGTH_MIN - 1).is_some() && text.chars().nth(LENGTH_MAX).is_none()
}

/// Text entered to prove knowledge of a password. A malformed text matches no hash, after the usual work.
#[derive(Debug)]
pub(crate) struct EnteredPassword {
    normalised: Option<Password>,
    /// The text as entered if it differs from the normalised form. Hashes from before passwords were
    /// normalised match only this form.
    unnormalised: Option<Password>,
}

impl EnteredPassword {
    /// Parses both forms of a text.
    pub(crate) fn parse(text: String) -> Self {
        let normalised = Password::parse(&text).ok();
        let unnormalised = Password::unnormalised(text).filter(|text| normalised.as_ref() != Some(text));
        Self { normalised, unnormalised }
    }

    /// Returns the normalised form, or `None` if the text has none that is a valid password.
    pub(crate) fn into_normalised(self) -> Option<Password> {
        self.normalised
    }
}

/// Form of an entered password that matches a stored hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The normalised form.
    Normalised,
    /// The text as entered. The hash was made before passwords were normalised.
    Unnormalised,
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

    /// Returns the form of the entered password that `hash` matches, the normalised one first. The work
    /// of a failure depends only on the text: one or two verifications, with or without a hash.
    ///
    /// # Errors
    /// The same as [`Passwords::verify`].
    pub(crate) async fn verify_entered(
        &self,
        entered: &EnteredPassword,
        hash: Option<Hash>,
    ) -> Result<Option<Form>, Error> {
        let normalised = entered.normalised.clone().unwrap_or_else(Password::dummy);
        if self.verify(normalised, hash.clone()).await? {
            return Ok(Some(Form::Normalised));
        }
        match entered.unnormalised.clone() {
            Some(unnormalised) => Ok(self.verify(unnormalised, hash).await?.then_some(Form::Unnormalised)),
            None => Ok(None),
        }
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
        Password::parse(text).unwrap()
    }

    #[test]
    fn a_password_has_8_to_256_characters_without_control_characters() {
        for good in ["12345678", "correct horse 🐎", &"ß".repeat(256)] {
            assert!(Password::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "1234567", "🐎🐎🐎🐎🐎🐎🐎", "1234567\0", "12345678\n", &"ß".repeat(257)]
        {
            assert!(matches!(Password::parse(bad), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_password_is_normalised_by_opaque_string() {
        for (text, normalised) in [
            ("correct horse battery staple", "correct horse battery staple"),
            ("Correct Horse Battery Staple", "Correct Horse Battery Staple"),
            ("Jack of ♦s", "Jack of ♦s"),
            ("foo\u{1680}bar baz", "foo bar baz"),
            ("a\u{a0}b\u{2003}c\u{3000}de", "a b c de"),
            ("caf\u{65}\u{301} noir", "caf\u{e9} noir"),
            ("\u{212b}ngstrom", "\u{c5}ngstrom"),
            ("ｆｕｌｌｗｉｄｔｈ", "ｆｕｌｌｗｉｄｔｈ"),
            (" 123456 ", " 123456 "),
        ] {
            assert_eq!(password(text).0, normalised, "{text:?}");
        }
        for bad in ["my cat is a \tby", "1234567\u{200b}8", "1234567\u{202e}8", "1234567\u{85}8"] {
            assert!(matches!(Password::parse(bad), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn the_length_of_a_password_is_counted_after_normalisation() {
        let decomposed = |count: usize| "e\u{301}".repeat(count);
        assert!(Password::parse(&decomposed(7)).is_err(), "14 characters become 7");
        assert_eq!(password(&decomposed(8)).0, "é".repeat(8));
        assert_eq!(password(&decomposed(256)).0, "é".repeat(256));
        assert!(Password::parse(&decomposed(257)).is_err());
        let four_to_one = "\u{3b1}\u{313}\u{300}\u{345}".repeat(256);
        assert_eq!(password(&four_to_one).0, "\u{1f82}".repeat(256));
        assert!(Password::parse(&"\u{661}".repeat(1_000_000)).is_err(), "refused without quadratic work");
    }

    #[tokio::test]
    async fn an_entered_password_matches_in_its_normalised_form_first() {
        let passwords = Passwords::new();
        let text = "caf\u{65}\u{301} noir";
        let entered = EnteredPassword::parse(text.to_owned());
        let new = passwords.hash(password(text)).await.unwrap();
        let old = passwords.hash(Password(text.to_owned())).await.unwrap();
        let form = passwords.verify_entered(&entered, Some(new)).await.unwrap();
        assert_eq!(form, Some(Form::Normalised));
        let form = passwords.verify_entered(&entered, Some(old.clone())).await.unwrap();
        assert_eq!(form, Some(Form::Unnormalised));
        assert_eq!(passwords.verify_entered(&entered, None).await.unwrap(), None);
        for other in ["caf\u{e9} noir", "caf\u{65}\u{301} noia", "", "short", "1234567\0"] {
            let entered = EnteredPassword::parse(other.to_owned());
            let form = passwords.verify_entered(&entered, Some(old.clone())).await.unwrap();
            assert_eq!(form, None, "{other:?}");
        }
        // Seven characters after normalisation: no valid password today, but an old hash still matches.
        let text = "e\u{301}".repeat(7);
        let old = passwords.hash(Password(text.clone())).await.unwrap();
        let entered = EnteredPassword::parse(text);
        let form = passwords.verify_entered(&entered, Some(old)).await.unwrap();
        assert_eq!(form, Some(Form::Unnormalised));
        assert_eq!(entered.into_normalised(), None);
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
        let entered = format!("{:?}", EnteredPassword::parse("caf\u{65}\u{301} noir".to_owned()));
        assert!(!entered.contains("caf"), "{entered}");
    }
}
