//! A slot as a hash in Redis: the commands that change it by the script, and how it is read. The script is `slot.lua`,
//! which keeps the rules of [`crate::slot`].

use std::time::Duration;

use proto::UserId;
use redis::{Cmd, Pipeline, Script, cmd, pipe};

use crate::{
    slot::{Delta, Slot},
    unread::{ROWS, Row, Unread, Version},
};

/// How long a slot lives after its fill: what nobody asks for goes away, and nothing is older than this whatever becomes of
/// its events.
pub(super) const LIFE: Duration = Duration::from_secs(600);
/// What every key begins with.
const PREFIX: &str = "tidings:unread:";

/// Fields of a hash with their values.
pub(super) type Fields = Vec<(String, String)>;

/// The commands of slots.
#[derive(Debug, Clone)]
pub(super) struct Hash {
    source: String,
    sha: String,
}

impl Hash {
    pub(super) fn new() -> Self {
        Self::running(include_str!("slot.lua"), LIFE)
    }

    /// With other rules, for tests that see them caught.
    pub(super) fn running(rules: &str, life: Duration) -> Self {
        let source = format!("local LIFE_MS, ROWS = {}, {ROWS}\n{rules}", life.as_millis());
        let sha = Script::new(&source).get_hash().to_owned();
        Self { source, sha }
    }

    /// Loads the script, which a server forgets when it ends.
    pub(super) fn load(&self) -> Cmd {
        let mut load = cmd("SCRIPT");
        load.arg("LOAD").arg(&self.source);
        load
    }

    /// Reads everything.
    pub(super) fn read(&self, user_id: UserId) -> Cmd {
        let mut read = cmd("HGETALL");
        read.arg(key(user_id));
        read
    }

    /// [`Slot::miss`].
    pub(super) fn miss(&self, user_id: UserId, ticket: u64) -> Cmd {
        let mut call = self.call(user_id, "miss");
        call.arg(ticket);
        call
    }

    /// [`Slot::fill`].
    pub(super) fn fill(&self, user_id: UserId, ticket: u64, unread: &Unread) -> Cmd {
        let mut call = self.call(user_id, "fill");
        call.arg(ticket).arg(version(unread.version));
        for row in &unread.rows {
            call.arg(row.dialog_id.to_string()).arg(row.unread).arg(row.read_seq).arg(row.last_seq);
        }
        call
    }

    /// [`Slot::apply`].
    pub(super) fn apply(&self, user_id: UserId, delta: &Delta) -> Cmd {
        let mut call = self.call(user_id, "apply");
        call.arg(version(delta.version)).arg(version(delta.previous));
        for (row, was) in &delta.rows {
            call.arg(row.dialog_id.to_string()).arg(*was).arg(row.unread).arg(row.read_seq).arg(row.last_seq);
        }
        call
    }

    /// [`Slot::apply`] for many, in order and in one round trip, whether the script is loaded or not.
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

/// Where a user's slot is.
pub(super) fn key(user_id: UserId) -> String {
    format!("{PREFIX}{user_id}")
}

fn version(version: Version) -> String {
    format!("{}-{}", version.epoch, version.number)
}

/// The slot of these fields; `None` where there is none, or none that this build understands.
pub(super) fn decode(fields: &[(String, String)]) -> Option<Slot> {
    let (mut floor, mut held, mut ticket, mut rows) = (None, None, None, Vec::new());
    for (field, value) in fields {
        match field.as_str() {
            "floor" => floor = Some(parse_version(value)?),
            "version" => held = Some(parse_version(value)?),
            "ticket" => ticket = Some(value.parse().ok()?),
            "newest" => {}
            dialog_id => rows.push(parse_row(dialog_id, value)?),
        }
    }
    if let Some(floor) = floor {
        return Some(Slot::Stub { ticket, floor });
    }
    rows.sort_unstable_by_key(|(rank, _)| std::cmp::Reverse(*rank));
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    let total = rows.iter().map(|row| row.unread).sum();
    Some(Slot::Held(Unread { version: held?, total, rows, truncated: false }.into()))
}

fn parse_version(text: &str) -> Option<Version> {
    let (epoch, number) = text.split_once('-')?;
    Some(Version { epoch: epoch.parse().ok()?, number: number.parse().ok()? })
}

fn parse_row(dialog_id: &str, value: &str) -> Option<(i64, Row)> {
    let mut numbers = value.split(' ').map(str::parse);
    let mut next = || numbers.next()?.ok();
    let (rank, unread, read_seq, last_seq) = (next()?, next()?, next()?, next()?);
    Some((rank, Row { dialog_id: dialog_id.parse().ok()?, unread, read_seq, last_seq }))
}

#[cfg(test)]
mod tests {
    use proto::DialogId;

    use super::*;

    fn decoded(fields: &[(&str, &str)]) -> Option<Slot> {
        decode(
            &fields
                .iter()
                .map(|(field, value)| ((*field).to_owned(), (*value).to_owned()))
                .collect::<Fields>(),
        )
    }

    #[test]
    fn rows_are_read_by_rank_and_what_is_not_understood_is_not_there() {
        let [a, b] = [DialogId::now(), DialogId::now()];
        let (first, second) = (a.to_string(), b.to_string());
        let row = |dialog_id, unread| Row { dialog_id, unread, read_seq: 3, last_seq: 9 };
        let version = Version { epoch: 2, number: 7 };
        let rows = vec![row(b, 4), row(a, 1)];
        let held = Slot::Held(Unread { version, total: 5, rows, truncated: false }.into());
        let fields = [("version", "2-7"), (&*first, "9 1 3 9"), ("newest", "10"), (&*second, "10 4 3 9")];
        assert_eq!(decoded(&fields), Some(held));
        let stub = |ticket| Some(Slot::Stub { ticket, floor: version });
        assert_eq!(decoded(&[("floor", "2-7")]), stub(None));
        assert_eq!(decoded(&[("floor", "2-7"), ("ticket", "18446744073709551615")]), stub(Some(u64::MAX)));
        for strange in
            [&[][..], &[("newest", "1")], &[("version", "2")], &[("version", "2-7"), ("x", "1 1 1 1")]]
        {
            assert_eq!(decoded(strange), None, "{strange:?}");
        }
        assert_eq!(decoded(&[("version", "2-7"), (&*first, "1 2 3")]), None);
    }
}
