//! Cache entry as a hash in Redis: builds the commands that change it and decodes its fields. The script
//! `entry.lua` implements the rules of [`super::entry`].

use std::time::Duration;

use proto::UserId;
use redis::{Cmd, Pipeline, Script, cmd, pipe};

use super::entry::{Delta, Entry};
use crate::unread::{ROWS_MAX, Row, Unread, Version};

/// Time to live of an entry from its creation. Nothing extends it, so entries of inactive users
/// disappear, and entries restored from an old Redis snapshot are out of date for at most this long.
pub(super) const TTL: Duration = Duration::from_secs(600);
const KEY_PREFIX: &str = "tidings:unread:";

/// Fields of a hash with their values.
pub(super) type Fields = Vec<(String, String)>;

/// Builder of the commands on entries.
#[derive(Debug, Clone)]
pub(super) struct Commands {
    script: String,
    sha: String,
}

impl Commands {
    pub(super) fn new() -> Self {
        Self::with_script(include_str!("entry.lua"), TTL)
    }

    /// Builds the commands of another script, so that tests can inject faults.
    pub(super) fn with_script(script: &str, ttl: Duration) -> Self {
        let script = format!("local TTL_MS, ROWS_MAX = {}, {ROWS_MAX}\n{script}", ttl.as_millis());
        let sha = Script::new(&script).get_hash().to_owned();
        Self { script, sha }
    }

    /// Loads the script. Redis loses it on a restart and on `SCRIPT FLUSH`.
    pub(super) fn load(&self) -> Cmd {
        let mut load = cmd("SCRIPT");
        load.arg("LOAD").arg(&self.script);
        load
    }

    /// Reads all fields of a user's entry.
    pub(super) fn read(&self, user_id: UserId) -> Cmd {
        let mut read = cmd("HGETALL");
        read.arg(key(user_id));
        read
    }

    /// Calls [`Entry::miss`].
    pub(super) fn miss(&self, user_id: UserId, ticket: u64) -> Cmd {
        let mut call = self.call(user_id, "miss");
        call.arg(ticket);
        call
    }

    /// Calls [`Entry::fill`].
    pub(super) fn fill(&self, user_id: UserId, ticket: u64, unread: &Unread) -> Cmd {
        let mut call = self.call(user_id, "fill");
        call.arg(ticket).arg(encode_version(unread.version));
        for row in &unread.rows {
            call.arg(row.dialog_id.to_string()).arg(row.unread).arg(row.read_seq).arg(row.last_seq);
        }
        call
    }

    /// Calls [`Entry::apply`].
    pub(super) fn apply(&self, user_id: UserId, delta: &Delta) -> Cmd {
        let mut call = self.call(user_id, "apply");
        call.arg(encode_version(delta.version)).arg(encode_version(delta.previous));
        for (row, was) in &delta.rows {
            call.arg(row.dialog_id.to_string()).arg(*was).arg(row.unread).arg(row.read_seq).arg(row.last_seq);
        }
        call
    }

    /// Calls [`Entry::apply`] for many deltas, in order and in one round trip. Loads the script first,
    /// since a pipeline cannot retry the calls that find no script.
    pub(super) fn apply_all<'a>(&self, deltas: impl Iterator<Item = &'a (UserId, Delta)>) -> Pipeline {
        let mut all = pipe();
        all.add_command(self.load()).ignore();
        for (user_id, delta) in deltas {
            all.add_command(self.apply(*user_id, delta)).ignore();
        }
        all
    }

    fn call(&self, user_id: UserId, rule: &str) -> Cmd {
        let mut call = cmd("EVALSHA");
        call.arg(&self.sha).arg(1).arg(key(user_id)).arg(rule);
        call
    }
}

/// Returns the key of a user's entry.
pub(super) fn key(user_id: UserId) -> String {
    format!("{KEY_PREFIX}{user_id}")
}

fn encode_version(version: Version) -> String {
    format!("{}-{}", version.epoch, version.number)
}

/// Decodes the fields of an entry. Returns `None` if there is no entry, or one that this build does not
/// understand.
pub(super) fn decode(fields: &[(String, String)]) -> Option<Entry> {
    let mut min_version = None;
    let mut version = None;
    let mut ticket = None;
    let mut rows = Vec::new();
    for (field, value) in fields {
        match field.as_str() {
            "floor" => min_version = Some(parse_version(value)?),
            "version" => version = Some(parse_version(value)?),
            "ticket" => ticket = Some(value.parse().ok()?),
            "newest" => {}
            dialog_id => rows.push(parse_row(dialog_id, value)?),
        }
    }
    if let Some(min_version) = min_version {
        return Some(Entry::Stub { ticket, min_version });
    }
    rows.sort_unstable_by_key(|(rank, _)| std::cmp::Reverse(*rank));
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    let total = rows.iter().map(|row| row.unread).sum();
    Some(Entry::Filled(Unread { version: version?, total, rows, truncated: false, stale: false }.into()))
}

fn parse_version(text: &str) -> Option<Version> {
    let (epoch, number) = text.split_once('-')?;
    Some(Version { epoch: epoch.parse().ok()?, number: number.parse().ok()? })
}

fn parse_row(dialog_id: &str, value: &str) -> Option<(i64, Row)> {
    let mut numbers = value.split(' ').map(str::parse);
    let mut next = || numbers.next()?.ok();
    let rank = next()?;
    let unread = next()?;
    let read_seq = next()?;
    let last_seq = next()?;
    Some((rank, Row { dialog_id: dialog_id.parse().ok()?, unread, read_seq, last_seq, stale: false }))
}

#[cfg(test)]
mod tests {
    use proto::DialogId;

    use super::*;

    fn decoded(fields: &[(&str, &str)]) -> Option<Entry> {
        decode(
            &fields
                .iter()
                .map(|(field, value)| ((*field).to_owned(), (*value).to_owned()))
                .collect::<Fields>(),
        )
    }

    #[test]
    fn rows_are_sorted_by_rank_and_an_unknown_format_is_a_miss() {
        let [a, b] = [DialogId::now(), DialogId::now()];
        let first = a.to_string();
        let second = b.to_string();
        let row = |dialog_id, unread| Row { dialog_id, unread, read_seq: 3, last_seq: 9, stale: false };
        let version = Version { epoch: 2, number: 7 };
        let rows = vec![row(b, 4), row(a, 1)];
        let filled = Entry::Filled(Unread { version, total: 5, rows, truncated: false, stale: false }.into());
        let fields = [("version", "2-7"), (&*first, "9 1 3 9"), ("newest", "10"), (&*second, "10 4 3 9")];
        assert_eq!(decoded(&fields), Some(filled));
        let stub = |ticket| Some(Entry::Stub { ticket, min_version: version });
        assert_eq!(decoded(&[("floor", "2-7")]), stub(None));
        assert_eq!(decoded(&[("floor", "2-7"), ("ticket", "18446744073709551615")]), stub(Some(u64::MAX)));
        for malformed in
            [&[][..], &[("newest", "1")], &[("version", "2")], &[("version", "2-7"), ("x", "1 1 1 1")]]
        {
            assert_eq!(decoded(malformed), None, "{malformed:?}");
        }
        assert_eq!(decoded(&[("version", "2-7"), (&*first, "1 2 3")]), None);
    }
}
