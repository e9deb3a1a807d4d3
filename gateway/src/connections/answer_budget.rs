//! Budget of answer bytes: bounds the memory of answers, from before their operation runs until the client
//! has taken them, for each client and for the process.
//!
//! An operation reserves the greatest size that its answer can have and gives back what the answer does not
//! need. An operation that finds no room waits for [`WAIT_MAX`] and is then rejected before it runs. The
//! memory held by clients that read slowly, or nothing, is thereby bounded on every transport. While a new
//! operation would wait for longer than [`OVERLOADED_ABOVE`](super::room::OVERLOADED_ABOVE), it is rejected
//! at once.

use std::{
    collections::HashMap, convert::Infallible, fmt, net::IpAddr, ops::Deref, sync::Arc, time::Duration,
};

use parking_lot::Mutex;
use proto::UserId;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::room::{Room, units};
use crate::{
    client::{Client, address::network},
    error::{Code, Error},
};

/// Most bytes of answers in flight to one client. The largest answer that the complexity limit admits fits.
pub const CLIENT_MAX_BYTES: usize = 8 << 20;
/// Longest wait of an operation for room in the budget. Longer than the time after which an answer that makes
/// no progress is dropped while operations wait, so that such answers cannot keep others out.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Time after which a client that was rejected at once may try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

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
    process: Room,
    /// Room of the clients that hold or await a reservation, with the number of those reservations.
    accounts: Mutex<HashMap<Account, (Arc<Room>, usize)>>,
}

impl AnswerBudget {
    /// Creates a budget of this many bytes for the process, at least [`CLIENT_MAX_BYTES`].
    pub fn new(process_max_bytes: usize) -> Self {
        let process = Room::new(process_max_bytes.max(CLIENT_MAX_BYTES));
        Self(Arc::new(State { process, accounts: Mutex::default() }))
    }

    /// Reserves room for an answer before its operation runs. Waits for at most [`WAIT_MAX`].
    ///
    /// # Errors
    /// RATE_LIMITED at once if the client, or the process, has no room and others wait for too long already;
    /// UNAVAILABLE if there is no room in time.
    pub async fn reserve(&self, account: Account, bytes: usize) -> Result<Reservation, Error> {
        let admit = |room: &Room, units| match room.is_overloaded(units) {
            false => Ok(()),
            true => Err(Error::rate_limited(RETRY_AFTER)),
        };
        let reserved = timeout(WAIT_MAX, self.reserve_if(account, bytes, admit)).await;
        reserved.unwrap_or_else(|_| Err(not_read_yet())).inspect_err(|_| {
            metrics::counter!("gateway_answers_refused_total").increment(1);
        })
    }

    /// Like [`AnswerBudget::reserve`], and waits until there is room. For subscriptions, which send the
    /// newest state whenever they proceed. Reserves at most the whole budget of the client.
    pub async fn reserve_patiently(&self, account: Account, bytes: usize) -> Reservation {
        match self.reserve_if(account, bytes, |_, _| Ok::<_, Infallible>(())).await {
            Ok(reservation) => reservation,
        }
    }

    /// Reserves in both rooms, each if `admit` allows to wait there for this many units.
    async fn reserve_if<E>(
        &self,
        account: Account,
        bytes: usize,
        admit: impl Fn(&Room, usize) -> Result<(), E>,
    ) -> Result<Reservation, E> {
        let units = units(bytes.min(CLIENT_MAX_BYTES));
        // The account before the process: a client without room of its own takes none from the others.
        let account = AccountRoom::open(self, account);
        admit(&account.room, units)?;
        let own = account.room.acquire(units).await;
        admit(&self.0.process, units)?;
        let process = self.0.process.acquire(units).await;
        Ok(Reservation(Mutex::new(Permits { own, process, account })))
    }

    /// Returns true while an operation waits for room in the budget of the process.
    pub fn is_exhausted(&self) -> bool {
        self.0.process.has_waiting()
    }

    /// Returns the bytes that are reserved in the process.
    pub fn reserved_bytes(&self) -> usize {
        self.0.process.taken_bytes()
    }
}

/// Error in place of an answer that is larger than its reservation and finds no further room.
pub fn too_large_to_hold() -> Error {
    Error::new(Code::Unavailable, "there is no room for an answer of this size, try again later")
}

fn not_read_yet() -> Error {
    Error::new(Code::Unavailable, "too many answers have not been read yet, try again later")
}

/// Room of one client. The last one to be dropped removes the entry of the account.
#[derive(Debug)]
struct AccountRoom {
    budget: AnswerBudget,
    account: Account,
    room: Arc<Room>,
}

impl AccountRoom {
    fn open(budget: &AnswerBudget, account: Account) -> Self {
        let mut accounts = budget.0.accounts.lock();
        let new_room = || (Arc::new(Room::new(CLIENT_MAX_BYTES)), 0);
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
        let own = permits.account.room.try_acquire(needed - reserved);
        let process = permits.account.budget.0.process.try_acquire(needed - reserved);
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
    use tokio::{task::unconstrained, time::Instant};

    use super::{
        super::room::{FEW, OVERLOADED_ABOVE, UNIT_BYTES},
        *,
    };

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
    async fn operations_beyond_an_overloaded_room_are_refused_at_once() {
        let budget = AnswerBudget::new(9 * MIB);
        let ann = user();
        // Once the room of a client is overloaded, once that of the process.
        for (holder, waits) in [(ann, ann), (user(), user())] {
            let held = budget.reserve(holder, 8 * MIB).await.expect("room");
            let mut oldest = Box::pin(budget.reserve(waits, 2 * MIB));
            assert!(unconstrained(oldest.as_mut()).now_or_never().is_none());
            let mut others: Vec<_> = (1..FEW).map(|_| Box::pin(budget.reserve(waits, 1))).collect();
            assert!(others.iter_mut().all(|other| unconstrained(other).now_or_never().is_none()));
            let late = OVERLOADED_ABOVE + Duration::from_millis(1);
            assert!(timeout(late, oldest.as_mut()).await.is_err(), "it waits");
            let started = Instant::now();
            assert_eq!(code(budget.reserve(waits, 2 * MIB).await).await, Code::RateLimited);
            assert_eq!(started.elapsed(), Duration::ZERO);
            let subscription = budget.reserve_patiently(waits, 2 * MIB);
            assert!(timeout(WAIT_MAX - late * 2, subscription).await.is_err(), "a subscription waits");
            assert_eq!(code(oldest.await).await, Code::Unavailable, "its time is over");
            drop(held);
            assert!(budget.reserve(waits, 2 * MIB).await.is_ok());
        }
        assert_eq!((budget.reserved_bytes(), budget.0.accounts.lock().len()), (0, 0));
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
