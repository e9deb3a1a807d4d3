//! Password hashing: argon2id (19 MiB, two passes, one lane) on threads of its own, at low priority
//! ([`threads`]), with a short queue that is fair between clients ([`queue`]). A burst of sign-ins therefore
//! exhausts neither memory nor CPU; work beyond the queue, and work that waits too long, is refused as busy.
//!
//! Every verification costs one hash, even if there is no stored hash to compare with.

mod hasher;
mod queue;
mod text;
mod threads;

use std::{fmt, sync::Arc, time::Duration};

use argon2::password_hash::Result as Hashed;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use self::{
    hasher::{Hasher, PARAMS},
    queue::Full,
    threads::{Job, Threads},
};
pub(crate) use self::{
    queue::{Origin, Requester},
    text::{EnteredPassword, Password},
};
use crate::Error;

/// Longest wait for the start of a hash of a caller that names no deadline. The gateway always names one.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Time before the caller's deadline after which a hash no longer starts.
const START_MARGIN: Duration = Duration::from_millis(500);
/// Time before the caller's deadline at which work that is not done is refused as busy, so that the caller
/// gets an answer. Without one it would take this service for one that does not answer.
const ANSWER_MARGIN: Duration = Duration::from_millis(100);

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
pub(crate) struct Passwords(Arc<Threads>);

impl Passwords {
    /// Starts the threads.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Threads::start()))
    }

    /// Hashes a password with a new random salt.
    ///
    /// # Errors
    /// [`Error::Busy`] if the queue is full, or the hash cannot start and end before the deadline;
    /// [`Error::Hashing`].
    pub(crate) async fn hash(&self, password: Password, requester: &Requester) -> Result<Hash, Error> {
        let hash = move |hasher: &mut Hasher| hasher.hash(password.as_bytes()).map(Hash);
        self.run("hash", requester, hash).await
    }

    /// Returns true if `hash` is a hash of the password. Without a hash it returns false, after the same
    /// work.
    ///
    /// # Errors
    /// [`Error::Busy`], as for [`Passwords::hash`]; [`Error::Hashing`] if the stored hash is malformed.
    pub(crate) async fn verify(
        &self,
        password: Password,
        hash: Option<Hash>,
        requester: &Requester,
    ) -> Result<bool, Error> {
        let has_hash = hash.is_some();
        let hash = hash.unwrap_or_else(Hash::dummy);
        let verify = move |hasher: &mut Hasher| hasher.verify(password.as_bytes(), &hash.0);
        Ok(self.run("verify", requester, verify).await? && has_hash)
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
        requester: &Requester,
    ) -> Result<Option<Form>, Error> {
        let normalised = entered.normalised().unwrap_or_else(Password::dummy);
        if self.verify(normalised, hash.clone(), requester).await? {
            return Ok(Some(Form::Normalised));
        }
        match entered.unnormalised() {
            Some(unnormalised) => {
                Ok(self.verify(unnormalised, hash, requester).await?.then_some(Form::Unnormalised))
            }
            None => Ok(None),
        }
    }

    /// Runs `work` on a password thread. If the future is dropped before, the work is dropped too.
    async fn run<T: Send + 'static>(
        &self,
        name: &'static str,
        requester: &Requester,
        work: impl FnOnce(&mut Hasher) -> Hashed<T> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let caller = Arc::new(());
        let job = Job {
            run: Box::new(move |hasher| {
                let started = Instant::now();
                let result = work(hasher);
                // Without a receiver the caller has left.
                drop(reply.send((result, started.elapsed())));
            }),
            caller: Arc::downgrade(&caller),
            start_by: start_by(requester.deadline),
        };
        self.0.submit(requester, job).map_err(|full| {
            busy(match full {
                Full::Lane => "queue_full",
                Full::Origin => "client_full",
            })
        })?;
        let answer = match requester.deadline.and_then(|deadline| deadline.checked_sub(ANSWER_MARGIN)) {
            Some(answer_by) => timeout_at(answer_by, answer).await.ok().and_then(Result::ok),
            None => answer.await.ok(),
        };
        let (result, elapsed) = answer.ok_or_else(|| busy("late"))?;
        metrics::counter!("auth_password_work_total", "work" => name).increment(1);
        metrics::histogram!("auth_password_work_seconds", "work" => name).record(elapsed);
        result.map_err(Error::Hashing)
    }
}

fn start_by(deadline: Option<Instant>) -> Instant {
    let now = Instant::now();
    deadline.map_or(now + WAIT_MAX, |deadline| deadline.checked_sub(START_MARGIN).unwrap_or(now))
}

/// Starts the counters of refused work at 0, so that the first refusal is an increase.
pub(crate) fn count_refusals_from_zero() {
    for reason in ["queue_full", "client_full", "late"] {
        metrics::counter!("auth_password_busy_total", "reason" => reason).increment(0);
    }
}

fn busy(reason: &'static str) -> Error {
    metrics::counter!("auth_password_busy_total", "reason" => reason).increment(1);
    Error::Busy
}

#[cfg(test)]
mod tests {
    use argon2::PasswordHash;

    use super::*;

    fn password(text: &str) -> Password {
        Password::parse(text).unwrap()
    }

    #[tokio::test]
    async fn an_entered_password_matches_in_its_normalised_form_first() {
        let passwords = Passwords::new();
        let text = "caf\u{65}\u{301} noir";
        let entered = EnteredPassword::parse(text.to_owned());
        let new = passwords.hash(password(text), &Requester::any()).await.unwrap();
        let old = passwords
            .hash(Password::unnormalised(text.to_owned()).unwrap(), &Requester::any())
            .await
            .unwrap();
        let form = passwords.verify_entered(&entered, Some(new), &Requester::any()).await.unwrap();
        assert_eq!(form, Some(Form::Normalised));
        let form = passwords.verify_entered(&entered, Some(old.clone()), &Requester::any()).await.unwrap();
        assert_eq!(form, Some(Form::Unnormalised));
        assert_eq!(passwords.verify_entered(&entered, None, &Requester::any()).await.unwrap(), None);
        for other in ["caf\u{e9} noir", "caf\u{65}\u{301} noia", "", "short", "1234567\0"] {
            let entered = EnteredPassword::parse(other.to_owned());
            let form =
                passwords.verify_entered(&entered, Some(old.clone()), &Requester::any()).await.unwrap();
            assert_eq!(form, None, "{other:?}");
        }
        // Seven characters after normalisation: no valid password today, but an old hash still matches.
        let text = "e\u{301}".repeat(7);
        let old =
            passwords.hash(Password::unnormalised(text.clone()).unwrap(), &Requester::any()).await.unwrap();
        let entered = EnteredPassword::parse(text);
        let form = passwords.verify_entered(&entered, Some(old), &Requester::any()).await.unwrap();
        assert_eq!(form, Some(Form::Unnormalised));
        assert_eq!(entered.into_normalised(), None);
    }

    #[tokio::test]
    async fn a_hash_matches_its_password_and_no_other() {
        let passwords = Passwords::new();
        let hash = passwords.hash(password("correct horse"), &Requester::any()).await.unwrap();
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.as_str());
        assert_ne!(
            passwords.hash(password("correct horse"), &Requester::any()).await.unwrap(),
            hash,
            "every hash has its own salt"
        );
        assert!(
            passwords.verify(password("correct horse"), Some(hash.clone()), &Requester::any()).await.unwrap()
        );
        assert!(
            !passwords
                .verify(password("correct horsf"), Some(hash.clone()), &Requester::any())
                .await
                .unwrap()
        );
        assert!(!passwords.verify(Password::dummy(), Some(hash), &Requester::any()).await.unwrap());
        let damaged = Hash::from_stored("$argon2id$damaged".to_owned());
        assert!(matches!(
            passwords.verify(password("correct horse"), Some(damaged), &Requester::any()).await,
            Err(Error::Hashing(_))
        ));
    }

    #[tokio::test]
    async fn the_dummy_hash_costs_as_much_as_any_other_and_matches_no_password() {
        let hash = Hash::dummy();
        let parsed = PasswordHash::new(hash.as_str()).unwrap();
        let real = PasswordHash::new(&Hasher::default().hash(b"correct horse").unwrap()).unwrap();
        assert_eq!(
            (parsed.algorithm, parsed.version, parsed.params),
            (real.algorithm, real.version, real.params)
        );
        assert_eq!(parsed.hash.unwrap().len(), real.hash.unwrap().len());
        assert_eq!(parsed.salt.unwrap().len(), real.salt.unwrap().len());
        assert!(!Passwords::new().verify(password("correct horse"), None, &Requester::any()).await.unwrap());
        assert!(!Passwords::new().verify(Password::dummy(), None, &Requester::any()).await.unwrap());
    }

    /// Occupies every thread until the returned sender is dropped.
    async fn occupy(passwords: &Passwords) -> Vec<std::sync::mpsc::Sender<()>> {
        let mut held = Vec::new();
        for _ in 0..passwords.0.count() {
            let (finish, finished) = std::sync::mpsc::channel::<()>();
            let (start, started) = oneshot::channel();
            let running = passwords.clone();
            tokio::spawn(async move {
                let work = move |_: &mut Hasher| {
                    start.send(()).expect("the test waits for the start");
                    // Ends with an error when the test drops the sender.
                    let _ = finished.recv();
                    Ok(())
                };
                running.run("verify", &Requester::any(), work).await
            });
            started.await.unwrap();
            held.push(finish);
        }
        held
    }

    #[tokio::test]
    async fn work_that_cannot_start_in_time_is_busy_and_none_misses_its_deadline() {
        let passwords = Passwords::new();
        let held = occupy(&passwords).await;
        let deadline = Instant::now() + Duration::from_millis(300);
        let hurried = Requester { deadline: Some(deadline), ..Requester::any() };
        assert!(matches!(passwords.hash(password("correct horse"), &hurried).await, Err(Error::Busy)));
        assert!(Instant::now() < deadline, "the caller gets an answer");
        drop(held);
        assert!(passwords.hash(password("correct horse"), &Requester::any()).await.is_ok());
    }

    #[tokio::test]
    async fn one_client_beyond_its_places_is_busy_at_once_and_others_are_served() {
        let passwords = Passwords::new();
        let held = occupy(&passwords).await;
        let from = |address: [u8; 4]| Requester {
            origin: Origin::Network(address.into()),
            deadline: Some(Instant::now() + Duration::from_secs(60)),
            ..Requester::any()
        };
        let verify = |requester: Requester| {
            let passwords = passwords.clone();
            tokio::spawn(async move { passwords.run("verify", &requester, |_| Ok(())).await })
        };
        let mut waiting: Vec<_> = (0..queue::ORIGIN_MAX).map(|_| verify(from([192, 0, 2, 1]))).collect();
        tokio::task::yield_now().await;
        let refused = verify(from([192, 0, 2, 1])).await.unwrap();
        assert!(matches!(refused, Err(Error::Busy)), "{refused:?}");
        waiting.push(verify(from([192, 0, 2, 2])));
        tokio::task::yield_now().await;
        drop(held);
        for answer in waiting {
            answer.await.unwrap().unwrap();
        }
    }

    #[test]
    fn debug_shows_neither_password_nor_hash() {
        let shown = format!("{:?} {:?}", password("correct horse"), Hash::dummy());
        assert_eq!(shown, "Password(…) Hash(…)");
        let entered = format!("{:?}", EnteredPassword::parse("caf\u{65}\u{301} noir".to_owned()));
        assert!(!entered.contains("caf"), "{entered}");
    }
}
