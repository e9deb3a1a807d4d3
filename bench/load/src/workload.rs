//! Users and dialogs of a scenario, their sends, and the comparison of all counts at the end.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use access::Claims;
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use db::Db;
use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    connection::Pool,
    graphql,
    oracle::{self, Counts, Oracle, UserIndex},
    schedule::Schedule,
    store,
    system::System,
};

/// Connections of the preparation and of the comparison.
const CONNECTIONS: usize = 8;
/// Time within which all acknowledged messages must be counted and committed.
const DRAIN_MAX: Duration = Duration::from_secs(120);
/// Lifetime of the access tokens.
const TOKEN_S: i64 = 3 * 3600;
/// Length of the texts in bytes: that of a chat message.
const TEXT: &str = "A message of sixty-four bytes, as people send them all day long.";

/// User with an access token.
#[derive(Debug, Clone)]
pub struct User {
    /// Id.
    pub id: String,
    /// Access token.
    pub token: String,
}

/// Send whose outcome may be unknown. Repeating it sends nothing twice.
#[derive(Debug, Clone)]
pub struct Send {
    /// Index of the dialog.
    pub dialog: usize,
    /// Author.
    pub author: UserIndex,
    key: String,
}

/// Acknowledged send.
#[derive(Debug, Clone, Copy)]
pub struct Acknowledged {
    /// Index of the dialog.
    pub dialog: usize,
    /// Number of the message in its dialog.
    pub seq: u64,
    /// Time at which it was to start.
    pub intended: Instant,
    /// Time of the answer.
    pub answered: Instant,
}

/// Everything that a scenario has created.
pub struct Workload {
    /// Users by index.
    pub users: Vec<User>,
    /// Acknowledged sends.
    pub oracle: Mutex<Oracle>,
    /// Ids of the dialogs by index.
    pub dialogs: Vec<String>,
    /// Sends without an acknowledgement.
    in_doubt: Mutex<Vec<Send>>,
    pools: Vec<Pool>,
    dialog_db: Db,
}

impl Workload {
    /// Creates users without dialogs.
    pub async fn with_users(system: &System, count: usize) -> anyhow::Result<Self> {
        let ids: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
        let auth = system.database("auth", 2).await?;
        store::insert_accounts(&auth, &ids).await?;
        auth.close().await;
        let dialog_db = system.database("dialog", 1).await?;
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().cast_signed();
        let token = |id| system.keys().sign(&Claims::new("tidings", id, Uuid::now_v7(), now_s, TOKEN_S));
        let users = ids.into_iter().map(|id| User { id: id.to_string(), token: token(id) }).collect();
        let pools = system.gateways().into_iter().map(|address| Pool::new(address, CONNECTIONS)).collect();
        Ok(Self {
            users,
            oracle: Mutex::default(),
            dialogs: Vec::new(),
            in_doubt: Mutex::default(),
            pools,
            dialog_db,
        })
    }

    /// Creates direct dialogs of two users each: of the users `i` and `i + pairs`, where the first is the
    /// author.
    pub async fn pairs(system: &System, pairs: usize) -> anyhow::Result<Self> {
        let mut workload = Self::with_users(system, 2 * pairs).await?;
        workload.add_dialogs((0..pairs).map(|author| vec![author, author + pairs]).collect()).await?;
        Ok(workload)
    }

    /// Creates dialogs of these users, each by its first, and waits until every participant has a counter.
    pub async fn add_dialogs(&mut self, members: Vec<Vec<UserIndex>>) -> anyhow::Result<()> {
        let this = &*self;
        let create = |members: Vec<UserIndex>| async move {
            let ids: Vec<&str> = members.iter().map(|user| this.users[*user].id.as_str()).collect();
            let title = (members.len() > 2).then_some("group");
            let input = json!({"input": {"participantIds": ids, "title": title}});
            let created = this.execute(members[0], graphql::CREATE, &input).await?;
            let id = created["createDialog"]["id"].as_str().context("the id of a dialog")?.to_owned();
            for user in &members {
                this.wait_until_joined(*user, &id).await?;
            }
            anyhow::Ok((id, members))
        };
        let created: Vec<_> = stream::iter(members).map(create).buffered(CONNECTIONS).try_collect().await?;
        for (id, members) in created {
            self.oracle.lock().add_dialog(id.clone(), members);
            self.dialogs.push(id);
        }
        Ok(())
    }

    async fn wait_until_joined(&self, user: UserIndex, dialog: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + DRAIN_MAX;
        while self.execute(user, graphql::JOINED, &json!({"id": dialog})).await?["dialogUnread"].is_null() {
            ensure!(Instant::now() < deadline, "user {user} has no counter of dialog {dialog}");
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Executes an operation at any gateway and returns its data.
    pub async fn execute(&self, user: UserIndex, document: &str, variables: &Value) -> anyhow::Result<Value> {
        graphql::data(&self.post(user, document, variables).await?)
    }

    /// Creates a send with a key of its own.
    pub fn new_send(&self, dialog: usize, author: UserIndex) -> Send {
        Send { dialog, author, key: Uuid::now_v7().simple().to_string() }
    }

    /// Encodes a send.
    pub fn encode(&self, send: &Send) -> Bytes {
        graphql::send_operation(&self.dialogs[send.dialog], TEXT, &send.key)
    }

    /// Sends at any gateway.
    pub async fn send(&self, send: &Send) -> anyhow::Result<Bytes> {
        self.pools[send.author % self.pools.len()]
            .post(&self.users[send.author].token, self.encode(send))
            .await
    }

    /// Returns all counts of a user with at most 100 unread dialogs.
    pub async fn counts(&self, user: UserIndex) -> anyhow::Result<Counts> {
        graphql::counts(&self.post(user, graphql::COUNTS, &json!({})).await?)
    }

    /// Records the answer of a send. Returns the seq, or `None` if it was refused.
    pub fn settle(&self, send: Send, answer: anyhow::Result<Bytes>) -> Option<u64> {
        match answer.and_then(|answer| graphql::sent_seq(&answer)) {
            Ok(seq) => {
                self.oracle.lock().record(send.dialog, send.author, seq);
                Some(seq)
            }
            Err(_) => {
                self.in_doubt.lock().push(send);
                None
            }
        }
    }

    /// Sends by a schedule to one of these dialogs after the other, each by its first participant. Returns
    /// the acknowledged sends.
    pub async fn send_by_schedule(
        self: &Arc<Self>,
        pool: &Pool,
        dialogs: &[usize],
        schedule: Schedule,
    ) -> anyhow::Result<Vec<Acknowledged>> {
        let authors: Vec<UserIndex> =
            self.oracle.lock().dialogs().iter().map(|dialog| dialog.members[0]).collect();
        let operation = |index: u64, intended| {
            let dialog = dialogs[index as usize % dialogs.len()];
            let author = authors[dialog];
            let workload = Arc::clone(self);
            let pool = pool.clone();
            async move {
                let send = workload.new_send(dialog, author);
                let answer = pool.post(&workload.users[author].token, workload.encode(&send)).await;
                let answered = Instant::now();
                let seq = workload.settle(send, answer)?;
                Some(Acknowledged { dialog, seq, intended, answered })
            }
        };
        Ok(schedule.run(operation).await?.into_iter().flatten().collect())
    }

    /// Repeats every send without an acknowledgement until it has one. Returns their number.
    pub async fn settle_doubts(&self) -> anyhow::Result<usize> {
        let doubts = std::mem::take(&mut *self.in_doubt.lock());
        let count = doubts.len();
        let deadline = Instant::now() + DRAIN_MAX;
        for send in doubts {
            while self.settle(send.clone(), self.send(&send).await).is_none() {
                ensure!(Instant::now() < deadline, "a send is still refused");
                sleep(Duration::from_millis(50)).await;
            }
            self.in_doubt.lock().clear();
        }
        Ok(count)
    }

    /// Waits until no message is PENDING. A message is COMMITTED only after it was counted; a FAILED one is
    /// found by [`Workload::compare`]. The question to the database costs less than queries would, so that it
    /// hardly adds to the costs of the sends.
    pub async fn drain(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + DRAIN_MAX;
        while store::has_pending(&self.dialog_db).await? {
            ensure!(Instant::now() < deadline, "messages are still PENDING");
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Waits until every reader's total is that of the acknowledged sends.
    pub async fn wait_until_counted(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + DRAIN_MAX;
        let oracle = Arc::new(self.oracle.lock().clone());
        for user in 0..self.users.len() {
            let expected = oracle.expected(user).total;
            while self.counts(user).await?.total < expected {
                ensure!(Instant::now() < deadline, "user {user} does not reach {expected}");
                sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }

    async fn post(&self, user: UserIndex, document: &str, variables: &Value) -> anyhow::Result<Bytes> {
        let pool = &self.pools[user % self.pools.len()];
        pool.post(&self.users[user].token, graphql::operation(document, variables)).await
    }

    /// Compares the counts of every user, at every gateway, with those of the acknowledged sends, and the
    /// numbers of the messages of every dialog with 1, 2, 3 and so on. Fails at any difference.
    pub async fn compare(&self) -> anyhow::Result<usize> {
        let oracle = Arc::new(std::mem::take(&mut *self.oracle.lock()));
        let mut wrong = oracle.misnumbered();
        let compare = |user: UserIndex| {
            let oracle = Arc::clone(&oracle);
            async move {
                let expected = oracle.expected(user);
                let mut lines = Vec::new();
                for pool in &self.pools {
                    let operation = graphql::operation(graphql::COUNTS, &json!({}));
                    let answer = pool.post(&self.users[user].token, operation).await?;
                    lines.extend(oracle::differences(
                        &self.users[user].id,
                        &expected,
                        &graphql::counts(&answer)?,
                    ));
                }
                anyhow::Ok(lines)
            }
        };
        let users = stream::iter(0..self.users.len()).map(compare).buffer_unordered(CONNECTIONS);
        wrong.extend(users.try_concat().await?);
        if !wrong.is_empty() {
            wrong.truncate(20);
            bail!("the counts are wrong:\n  {}", wrong.join("\n  "));
        }
        Ok(self.users.len())
    }
}
