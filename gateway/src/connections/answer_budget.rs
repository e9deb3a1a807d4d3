//! Budget of answer bytes: bounds the memory of answers, from before their operation runs until the client
//! has taken them, for each client and for the process.
//!
//! An operation reserves the greatest size that its answer can have and gives back what the answer does not
//! need. An operation that finds no room waits for [`WAIT_MAX`] and is then rejected before it runs. The
//! memory held by clients that read slowly, or nothing, is thereby bounded on every transport.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use proto::UserId;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    client::{Client, address::network},
    error::{Code, Error},
};

/// Most bytes of answers in flight to one client. The largest answer that the complexity limit admits fits.
pub const CLIENT_MAX_BYTES: usize = 8 << 20;
/// Longest wait of an operation for room in the budget. Longer than the time after which an answer that makes
/// no progress is dropped while operations wait, so that such answers cannot keep others out.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Size of one permit. A semaphore counts permits in 32 bits, so bytes would limit the budget to 4 GB.
const UNIT_BYTES: usize = 1024;

/// Client that the bytes of an answer are charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Account {
    /// An authenticated user, on all connections together.
    User(UserId),
    /// The address of anonymous clients, the /64 network for IPv6.
    Address(IpAddr),
}

impl Account {
    /// Returns the account of a client.
    pub fn of(client: &Client) -> Self {
        match &client.caller {
            Some(caller) => Self::User(caller.user),
            None => Self::Address(network(client.address)),
        }
    }
}

/// The budget of a gateway. Cheap to clone; clones share their state.
#[derive(Debug, Clone)]
pub struct AnswerBudget(Arc<State>);

#[derive(Debug)]
struct State {
    process: Arc<Semaphore>,
    process_units: usize,
    /// Operations that wait for room in the budget of the process.
    waiting: AtomicUsize,
    /// Room of the clients that hold or await a reservation, with the number of those reservations.
    accounts: Mutex<HashMap<Account, (Arc<Semaphore>, usize)>>,
}

impl AnswerBudget {
    /// Creates a budget of this many bytes for the process, at least [`CLIENT_MAX_BYTES`].
    pub fn new(process_max_bytes: usize) -> Self {
        let process_units = units(process_max_bytes.max(CLIENT_MAX_BYTES));
        Self(Arc::new(State {
            process: Arc::new(Semaphore::new(process_units)),
            process_units,
            waiting: AtomicUsize::new(0),
            accounts: Mutex::default(),
        }))
    }

    /// Reserves room for an answer before its operation runs. Waits for at most [`WAIT_MAX`].
    ///
    /// # Errors
    /// UNAVAILABLE if the client, or the process, has no room in time.
    pub async fn reserve(&self, account: Account, bytes: usize) -> Result<Reservation, Error> {
        timeout(WAIT_MAX, self.reserve_patiently(account, bytes)).await.map_err(|_| {
            metrics::counter!("gateway_answers_refused_total").increment(1);
            Error::new(Code::Unavailable, "too many answers have not been read yet, try again later")
        })
    }

    /// Like [`AnswerBudget::reserve`], and waits until there is room. For subscriptions, which send the
    /// newest state whenever they proceed. Reserves at most the whole budget of the client.
    pub async fn reserve_patiently(&self, account: Account, bytes: usize) -> Reservation {
        let units = units(bytes).min(CLIENT_MAX_BYTES / UNIT_BYTES);
        // The account before the process: a client without room of its own takes none from the others.
        let account = AccountRoom::open(self, account);
        let own = acquire(&account.room, units).await;
        let process = match try_acquire(&self.0.process, units) {
            Some(permit) => permit,
            None => {
                let _waiting = Waiting::new(&self.0.waiting);
                acquire(&self.0.process, units).await
            }
        };
        Reservation(Mutex::new(Permits { own, process, account }))
    }

    /// Returns true while an operation waits for room in the budget of the process.
    pub fn is_exhausted(&self) -> bool {
        self.0.waiting.load(Ordering::Relaxed) > 0
    }

    /// Returns the bytes that are reserved in the process.
    pub fn reserved_bytes(&self) -> usize {
        (self.0.process_units - self.0.process.available_permits()) * UNIT_BYTES
    }
}

/// Error in place of an answer that is larger than its reservation and finds no further room.
pub fn too_large_to_hold() -> Error {
    Error::new(Code::Unavailable, "there is no room for an answer of this size, try again later")
}

/// Converts bytes to permits, at least one.
fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT_BYTES).max(1)
}

async fn acquire(room: &Arc<Semaphore>, units: usize) -> OwnedSemaphorePermit {
    let units = u32::try_from(units).expect("a reservation is at most the budget of a client");
    room.clone().acquire_many_owned(units).await.expect("the semaphore is never closed")
}

fn try_acquire(room: &Arc<Semaphore>, units: usize) -> Option<OwnedSemaphorePermit> {
    room.clone().try_acquire_many_owned(u32::try_from(units).ok()?).ok()
}

/// Counts a waiting operation until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Room of one client. The last one to be dropped removes the entry of the account.
#[derive(Debug)]
struct AccountRoom {
    budget: AnswerBudget,
    account: Account,
    room: Arc<Semaphore>,
}

impl AccountRoom {
    fn open(budget: &AnswerBudget, account: Account) -> Self {
        let mut accounts = budget.0.accounts.lock();
        let new_room = || (Arc::new(Semaphore::new(CLIENT_MAX_BYTES / UNIT_BYTES)), 0);
        let (room, users) = accounts.entry(account).or_insert_with(new_room);
        *users += 1;
        Self { budget: budget.clone(), account, room: room.clone() }
    }
}

impl Drop for AccountRoom {
    fn drop(&mut self) {
        let mut accounts = self.budget.0.accounts.lock();
        if let Some((_, users)) = accounts.get_mut(&self.account) {
            *users -= 1;
            if *users == 0 {
                accounts.remove(&self.account);
            }
        }
    }
}

/// Room for one answer. Dropping it gives the room back.
pub struct Reservation(Mutex<Permits>);

/// Field order matters: the permits are given back before the account's room is closed.
#[derive(Debug)]
struct Permits {
    own: OwnedSemaphorePermit,
    process: OwnedSemaphorePermit,
    account: AccountRoom,
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reservation").field(&self.0.lock().own.num_permits()).finish()
    }
}

impl Reservation {
    /// Changes the reservation to the size of the answer. Returns false, and changes nothing, if that is more
    /// than was reserved and there is no room for the rest.
    #[must_use]
    pub fn resize(&self, bytes: usize) -> bool {
        let mut permits = self.0.lock();
        let reserved = permits.own.num_permits();
        let needed = units(bytes);
        if needed <= reserved {
            drop(permits.own.split(reserved - needed));
            drop(permits.process.split(reserved - needed));
            return true;
        }
        let own = try_acquire(&permits.account.room, needed - reserved);
        let process = try_acquire(&permits.account.budget.0.process, needed - reserved);
        let Some((own, process)) = own.zip(process) else { return false };
        permits.own.merge(own);
        permits.process.merge(process);
        true
    }

    /// Gives back the room in the process, and the client's room except for this many bytes.
    pub fn abandon(&self, bytes: usize) {
        let mut permits = self.0.lock();
        let own = permits.own.num_permits();
        drop(permits.own.split(own.saturating_sub(units(bytes))));
        let process = permits.process.num_permits();
        drop(permits.process.split(process));
    }
}

/// JSON of an answer, with the room that it takes in the budget until the last clone is dropped.
#[derive(Clone)]
pub struct AnswerJson {
    text: Arc<str>,
    reservation: Option<Arc<Reservation>>,
}

impl AnswerJson {
    /// Joins a text and its reservation.
    pub fn new(text: Arc<str>, reservation: Reservation) -> Self {
        Self { text, reservation: Some(Arc::new(reservation)) }
    }

    /// Returns the text.
    pub fn text(&self) -> Arc<str> {
        self.text.clone()
    }

    /// Returns the reservation.
    pub fn reservation(&self) -> Option<Arc<Reservation>> {
        self.reservation.clone()
    }
}

impl Deref for AnswerJson {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

/// A small text outside the budget, such as an error.
impl<T: Into<Arc<str>>> From<T> for AnswerJson {
    fn from(text: T) -> Self {
        Self { text: text.into(), reservation: None }
    }
}

impl PartialEq for AnswerJson {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for AnswerJson {}

impl fmt::Debug for AnswerJson {
    /// Omits the text: it may hold message texts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnswerJson({} bytes)", self.text.len())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::task::unconstrained;

    use super::*;

    const MIB: usize = 1 << 20;

    fn user() -> Account {
        Account::User(UserId::now())
    }

    async fn code(result: Result<Reservation, Error>) -> Code {
        result.expect_err("there is no room").code()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_has_eight_mebibytes_and_waits_two_seconds_for_more() {
        let budget = AnswerBudget::new(256 * MIB);
        let ann = user();
        let first = budget.reserve(ann, 5 * MIB).await.expect("room");
        assert_eq!(code(budget.reserve(ann, 4 * MIB).await).await, Code::Unavailable);
        assert!(budget.reserve(user(), 8 * MIB).await.is_ok(), "each client has a budget");
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(ann, 4 * MIB).await }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.expect("no panic").is_ok(), "a wait ends when there is room");
        assert_eq!((budget.reserved_bytes(), budget.0.accounts.lock().len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_clients_hold_at_most_the_budget_of_the_process() {
        let budget = AnswerBudget::new(256 * MIB);
        let mut held = Vec::new();
        for _ in 0..10_000 {
            if let Some(Ok(reservation)) = unconstrained(budget.reserve(user(), 8 * MIB)).now_or_never() {
                held.push(reservation);
            }
        }
        assert_eq!((held.len(), budget.reserved_bytes()), (32, 256 * MIB));
        assert!(!budget.is_exhausted(), "a cancelled wait is not counted");
        let mut waiting = Box::pin(budget.reserve(user(), 1));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(budget.is_exhausted());
        held.pop();
        assert!(waiting.await.is_ok());
        assert!(!budget.is_exhausted());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reservation_shrinks_to_its_answer_and_grows_only_into_free_room() {
        let budget = AnswerBudget::new(9 * MIB);
        let ann = user();
        let reservation = budget.reserve(ann, 6 * MIB).await.expect("room");
        assert!(reservation.resize(100));
        assert_eq!(budget.reserved_bytes(), UNIT_BYTES);
        assert!(reservation.resize(3 * MIB));
        let own = budget.reserve(ann, 4 * MIB).await.expect("room");
        assert!(!reservation.resize(5 * MIB), "the client's budget is used up");
        let other = budget.reserve(user(), 2 * MIB).await.expect("room");
        drop(own);
        assert!(!reservation.resize(8 * MIB), "the budget of the process is used up");
        assert_eq!(budget.reserved_bytes(), 5 * MIB);
        drop((reservation, other));
        assert_eq!((budget.reserved_bytes(), budget.0.accounts.lock().len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscription_waits_for_as_long_as_needed_and_for_the_whole_budget_at_most() {
        let budget = AnswerBudget::new(256 * MIB);
        let ann = user();
        let held = budget.reserve(ann, 8 * MIB).await.expect("room");
        let mut waiting = Box::pin(budget.reserve_patiently(ann, usize::MAX));
        assert!(timeout(WAIT_MAX * 100, waiting.as_mut()).await.is_err());
        drop(held);
        drop(waiting.await);
        assert_eq!(budget.reserved_bytes(), 0);
    }
}
