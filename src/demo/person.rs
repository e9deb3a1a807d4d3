//! A person: a new user with a session, a live subscription whose frames add up to a badge, and the actions
//! of a chat.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use resilience::Backoff;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    api::{Api, Error},
    badge::{Badge, Counts},
    plan::Dice,
    socket::UnreadSocket,
};

const SESSION: &str = "accessToken refreshToken expiresAt user { id }";
const CREATE: &str = "mutation($input: CreateDialogInput!) { createDialog(input: $input) { id } }";
const SEND: &str = "mutation($input: SendMessageInput!) { sendMessage(input: $input) { id } }";
const OPEN: &str = "query($id: ID!) { dialog(id: $id) { title unreadCount
    messages(last: 20) { nodes { id senderId text deletedAt } } } }";
const READ: &str = "mutation($input: MarkReadInput!) { markRead(input: $input) { version total } }";
const DELETE: &str = "mutation($id: ID!) { deleteMessage(id: $id) { id } }";
const UNREAD: &str = "query($atLeast: String) {
    unread(atLeast: $atLeast) { version total stale dialogs(first: 100) { dialogId unread } } }";
const STATES: &str = "{ dialogs(first: 100) { nodes { lastMessage { status } } } }";
/// Delays between two attempts to subscribe.
const RECONNECT_FIRST: Duration = Duration::from_millis(250);
const RECONNECT_MAX: Duration = Duration::from_secs(5);
/// Shortest time between two renewals of a session.
const RENEWAL_MIN: Duration = Duration::from_secs(1);
/// Time until the first frame.
const FIRST_FRAME_MAX: Duration = Duration::from_secs(20);
/// Time for which a comparison waits for a frame before it asks again.
const FRAME_DELAY: Duration = Duration::from_millis(200);
/// Of so many reads one ends at an older message.
const READS_OF_AN_OLDER: usize = 4;

/// Person who chats.
#[derive(Debug)]
pub struct Person {
    pub login: String,
    id: String,
    session: Mutex<Session>,
    badge: watch::Sender<Badge>,
    pub done: Done,
}

/// Actions that the server has acknowledged, and those that failed.
#[derive(Debug, Default)]
pub struct Done {
    pub sent: AtomicU64,
    pub read: AtomicU64,
    pub deleted: AtomicU64,
    pub failed: AtomicU64,
    pub reconnects: AtomicU64,
}

/// Badge and query at the same version.
#[derive(Debug)]
pub struct Comparison {
    pub frames: u64,
    pub folded: i64,
    pub asked: i64,
    pub differences: Vec<String>,
}

#[derive(Debug, Clone)]
struct Session {
    access_token: String,
    refresh_token: String,
    renew_at: Instant,
}

impl Session {
    /// Parses a session, which is renewed after half of its life.
    fn parse(session: &Value) -> Self {
        let text = |name: &str| session[name].as_str().unwrap_or_default().to_owned();
        let expiry: Option<Timestamp> = text("expiresAt").parse().ok();
        let expiry =
            expiry.and_then(|expiry| SystemTime::from(expiry).duration_since(SystemTime::now()).ok());
        let renew_at = Instant::now() + (expiry.unwrap_or_default() / 2).max(RENEWAL_MIN);
        Self { access_token: text("accessToken"), refresh_token: text("refreshToken"), renew_at }
    }
}

impl Person {
    /// Registers a user.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn register(api: &Api, login: String, name: &str, password: &str) -> Result<Self, Error> {
        let input = json!({"login": login, "password": password, "name": name});
        let data = api.execute(None, &registration(), json!({"input": input})).await?;
        let session = &data["register"];
        Ok(Self {
            login,
            id: session["user"]["id"].as_str().unwrap_or_default().to_owned(),
            session: Mutex::new(Session::parse(session)),
            badge: watch::Sender::default(),
            done: Done::default(),
        })
    }

    /// Returns the badge as of now.
    pub fn badge(&self) -> Badge {
        self.badge.borrow().clone()
    }

    /// Creates a dialog with others and returns its id.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn create(&self, api: &Api, others: &[&Self], title: Option<&str>) -> Result<String, Error> {
        let ids: Vec<&str> = others.iter().map(|person| person.id.as_str()).collect();
        let input = json!({"participantIds": ids, "title": title, "clientKey": key()});
        let data = self.execute(api, CREATE, json!({"input": input})).await?;
        Ok(data["createDialog"]["id"].as_str().unwrap_or_default().to_owned())
    }

    /// Sends a message.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn send(&self, api: &Api, dialog: &str, text: &str) -> Result<(), Error> {
        let input = json!({"dialogId": dialog, "text": text, "clientKey": key()});
        self.execute(api, SEND, json!({"input": input})).await?;
        self.done.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Opens one of the dialogs with unread messages and marks it as read: mostly to its end, sometimes to an
    /// older message.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn read(&self, api: &Api, dice: Dice<'_>) -> Result<(), Error> {
        let unread = self.badge().unread_dialogs();
        if unread.is_empty() {
            return Ok(());
        }
        let dialog = &unread[dice(unread.len())];
        let messages = self.open(api, dialog).await?;
        let up_to = match dice(READS_OF_AN_OLDER) {
            0 if !messages.is_empty() => messages.get(dice(messages.len())),
            _ => messages.last(),
        };
        let input = json!({"dialogId": dialog, "upTo": up_to.map(|message| &message["id"])});
        self.execute(api, READ, json!({"input": input})).await?;
        self.done.read.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Deletes the newest own message of a dialog.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn delete(&self, api: &Api, dialog: &str) -> Result<(), Error> {
        let messages = self.open(api, dialog).await?;
        let own = |message: &&Value| message["senderId"] == *self.id && message["deletedAt"].is_null();
        let Some(message) = messages.iter().rev().find(own) else { return Ok(()) };
        self.execute(api, DELETE, json!({"id": message["id"]})).await?;
        self.done.deleted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Loads the newest messages of a dialog, oldest first.
    async fn open(&self, api: &Api, dialog: &str) -> Result<Vec<Value>, Error> {
        let mut data = self.execute(api, OPEN, json!({"id": dialog})).await?;
        let messages = data.pointer_mut("/dialog/messages/nodes").map(Value::take);
        Ok(messages.and_then(|messages| messages.as_array().cloned()).unwrap_or_default())
    }

    async fn execute(&self, api: &Api, document: &str, variables: Value) -> Result<Value, Error> {
        let token = self.session.lock().access_token.clone();
        api.execute(Some(&token), document, variables).await
    }

    /// Follows the counts until `stop`: connects again after every loss, and when the session is renewed.
    pub async fn follow(&self, api: &Api, stop: CancellationToken) {
        let mut backoff = Backoff::new(RECONNECT_FIRST, RECONNECT_MAX);
        let mut is_lost = false;
        while !stop.is_cancelled() {
            self.renew(api).await;
            let Session { access_token, renew_at, .. } = self.session.lock().clone();
            let since = self.badge.borrow().version.clone();
            match UnreadSocket::subscribe(api, &access_token, since.as_deref()).await {
                Ok(mut socket) => {
                    self.done.reconnects.fetch_add(is_lost.into(), Ordering::Relaxed);
                    is_lost = false;
                    tokio::select! {
                        error = self.fold_frames(&mut socket, &mut backoff) => {
                            is_lost = true;
                            self.report_loss(&error);
                        }
                        () = sleep_until(renew_at) => {}
                        () = stop.cancelled() => {}
                    }
                    socket.close().await;
                }
                Err(error) => self.report_loss(&error),
            }
            stop.run_until_cancelled(sleep(backoff.next_delay())).await;
        }
    }

    async fn fold_frames(&self, socket: &mut UnreadSocket<'_>, backoff: &mut Backoff) -> Error {
        loop {
            match socket.frame().await {
                Ok(frame) => self.badge.send_modify(|badge| badge.fold(&frame)),
                Err(error) => return error,
            }
            backoff.reset();
        }
    }

    fn report_loss(&self, error: &Error) {
        tracing::warn!(login = self.login, %error, "the subscription is opened again");
    }

    /// Renews the session when half of its life is over.
    async fn renew(&self, api: &Api) {
        let Session { refresh_token, renew_at, .. } = self.session.lock().clone();
        if renew_at > Instant::now() {
            return;
        }
        let renewed = match api.execute(None, &renewal(), json!({"token": refresh_token})).await {
            Ok(data) => Session::parse(&data["refreshSession"]),
            Err(error) => {
                tracing::warn!(login = self.login, %error, "the session is not renewed");
                self.done.failed.fetch_add(1, Ordering::Relaxed);
                let renew_at = Instant::now() + RECONNECT_MAX;
                Session { renew_at, ..self.session.lock().clone() }
            }
        };
        *self.session.lock() = renewed;
    }

    /// Waits until the subscription has sent its first frame.
    ///
    /// # Errors
    /// [`Error::Silent`] after [`FIRST_FRAME_MAX`].
    pub async fn wait_for_frame(&self, api: &Api) -> Result<(), Error> {
        let mut badges = self.badge.subscribe();
        let first = badges.wait_for(|badge| badge.version.is_some());
        let first = timeout(FIRST_FRAME_MAX, first).await;
        first.map(drop).map_err(|_| api.silent("no frame of the subscription `unread` in 20 s"))
    }

    /// Compares the badge with the query `unread` as soon as both have the same version, or at the deadline.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn compare(&self, api: &Api, deadline: Instant) -> Result<Comparison, Error> {
        let mut badges = self.badge.subscribe();
        loop {
            let badge = badges.borrow_and_update().clone();
            let data = self.execute(api, UNREAD, json!({"atLeast": badge.version})).await?;
            let counts = Counts::parse(&data["unread"]);
            let is_same = badge.version.as_ref() == Some(&counts.version) && !counts.stale;
            if is_same || Instant::now() >= deadline {
                let differences = badge.differences(&counts);
                return Ok(Comparison {
                    frames: badge.frames,
                    folded: badge.total,
                    asked: counts.total,
                    differences,
                });
            }
            drop(timeout(FRAME_DELAY, badges.changed()).await);
        }
    }

    /// Returns true if the newest message of a dialog is not counted yet.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn has_pending(&self, api: &Api) -> Result<bool, Error> {
        let data = self.execute(api, STATES, json!({})).await?;
        let dialogs = data.pointer("/dialogs/nodes").and_then(Value::as_array);
        let is_pending = |dialog: &Value| dialog.pointer("/lastMessage/status") == Some(&json!("PENDING"));
        Ok(dialogs.is_some_and(|dialogs| dialogs.iter().any(is_pending)))
    }
}

fn registration() -> String {
    format!("mutation($input: RegisterInput!) {{ register(input: $input) {{ {SESSION} }} }}")
}

fn renewal() -> String {
    format!("mutation($token: String!) {{ refreshSession(refreshToken: $token) {{ {SESSION} }} }}")
}

/// Returns a new idempotency key.
fn key() -> String {
    Uuid::new_v4().simple().to_string()
}
