//! The databases' content, read while the system is at rest, and the counts calculated from it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use db::{Db, Error, Row, query};
use uuid::Uuid;

/// The three databases.
pub struct Databases {
    pub auth: Db,
    pub dialog: Db,
    pub counter: Db,
    /// True if a relay deletes events from the outboxes when they are published.
    pub relayed: bool,
}

impl Databases {
    /// Returns the number of unpublished events in all outboxes, and of PENDING messages, that were created
    /// before a time.
    pub async fn backlog(&self, before_us: i64) -> Result<(i64, i64), Error> {
        let mut events = 0;
        for db in [&self.auth, &self.dialog, &self.counter].into_iter().filter(|_| self.relayed) {
            let select = query("select count(*) as n from outbox where created_at_us < $1");
            events += select.bind(before_us).one(db).await?.get::<i64>("n")?;
        }
        let select =
            query("select count(*) as n from message where status = 'pending' and created_at_us < $1");
        Ok((events, select.bind(before_us).one(&self.dialog).await?.get("n")?))
    }

    /// Returns the dialogs whose events the counter has not applied, as text.
    pub async fn unapplied(&self) -> Result<Vec<String>, Error> {
        let select = query("select dialog_id, version from dialog_applied where missing = '[]'");
        let applied: HashMap<Uuid, i64> = select
            .all(&self.counter)
            .await?
            .iter()
            .map(|row| Ok((row.get("dialog_id")?, row.get("version")?)))
            .collect::<Result<_, Error>>()?;
        let mut unapplied = Vec::new();
        for row in query("select id, version from dialog").all(&self.dialog).await? {
            let id: Uuid = row.get("id")?;
            let version: i64 = row.get("version")?;
            if applied.get(&id) != Some(&version) {
                unapplied.push(format!("{id} at {:?} of {version}", applied.get(&id)));
            }
        }
        Ok(unapplied)
    }

    pub async fn close(self) {
        for db in [self.auth, self.dialog, self.counter] {
            db.close().await;
        }
    }
}

pub struct Message {
    pub id: Uuid,
    pub seq: i64,
    pub author: Uuid,
    pub status: String,
    pub deleted: bool,
}

/// Row of a participant: the membership in dialog's database, and the counter's.
#[derive(Default)]
pub struct Member {
    pub joined_seq: i64,
    pub has_left: bool,
    pub read_seq: i64,
    /// The count in the counter's table.
    pub stored: Option<i64>,
}

pub struct LedgerEntry {
    pub message: Uuid,
    pub counted: bool,
}

/// Everything that the counts depend on.
#[derive(Default)]
pub struct Tables {
    /// Messages by dialog, by seq.
    pub messages: BTreeMap<Uuid, Vec<Message>>,
    /// Participants by dialog and user, those who left included.
    pub members: BTreeMap<(Uuid, Uuid), Member>,
    pub ledger: BTreeMap<(Uuid, i64), LedgerEntry>,
    /// Message by author and client key.
    pub keys: HashMap<(Uuid, String), Uuid>,
}

impl Tables {
    pub async fn read(databases: &Databases) -> Result<Self, Error> {
        let mut tables = Self::default();
        tables.read_dialog(&databases.dialog).await?;
        tables.read_counter(&databases.counter).await?;
        Ok(tables)
    }

    async fn read_dialog(&mut self, dialog: &Db) -> Result<(), Error> {
        let select = "select id, dialog_id, seq, author_id, status, deleted_at_us from message order by seq";
        for row in query(select).all(dialog).await? {
            let message = Message {
                id: row.get("id")?,
                seq: row.get("seq")?,
                author: row.get("author_id")?,
                status: row.get("status")?,
                deleted: row.get::<Option<i64>>("deleted_at_us")?.is_some(),
            };
            self.messages.entry(row.get("dialog_id")?).or_default().push(message);
        }
        for row in
            query("select dialog_id, user_id, joined_seq, has_left from membership").all(dialog).await?
        {
            let member = Member {
                joined_seq: row.get("joined_seq")?,
                has_left: row.get("has_left")?,
                ..Member::default()
            };
            self.members.insert(key(&row)?, member);
        }
        for row in query("select author_id, client_key, message_id from message_key").all(dialog).await? {
            self.keys.insert((row.get("author_id")?, row.get("client_key")?), row.get("message_id")?);
        }
        Ok(())
    }

    async fn read_counter(&mut self, counter: &Db) -> Result<(), Error> {
        let select = "select dialog_id, user_id, read_seq, unread from member_counter";
        for row in query(select).all(counter).await? {
            let member = self.members.entry(key(&row)?).or_default();
            member.read_seq = row.get("read_seq")?;
            member.stored = Some(row.get("unread")?);
        }
        for row in query("select dialog_id, seq, message_id, state from ledger").all(counter).await? {
            let counted = row.get::<String>("state")? == "counted";
            let entry = LedgerEntry { message: row.get("message_id")?, counted };
            self.ledger.insert((row.get("dialog_id")?, row.get("seq")?), entry);
        }
        Ok(())
    }

    /// Returns the ids of a dialog's participants.
    pub fn participants(&self, dialog: Uuid) -> BTreeSet<Uuid> {
        let of_dialog = self.members.range((dialog, Uuid::nil())..=(dialog, Uuid::max()));
        of_dialog.filter(|(_, member)| !member.has_left).map(|((_, user), _)| *user).collect()
    }

    /// Calculates the count of a participant from dialog's tables and the read pointer.
    pub fn unread(&self, dialog: Uuid, user: Uuid) -> i64 {
        let Some(member) = self.members.get(&(dialog, user)).filter(|member| !member.has_left) else {
            return 0;
        };
        let above = member.read_seq.max(member.joined_seq);
        let counts = |message: &&Message| {
            message.seq > above && message.author != user && !message.deleted && message.status == "committed"
        };
        let messages = self.messages.get(&dialog).into_iter().flatten().filter(counts).count();
        i64::try_from(messages).expect("a count of rows")
    }
}

fn key(row: &Row) -> Result<(Uuid, Uuid), Error> {
    Ok((row.get("dialog_id")?, row.get("user_id")?))
}
