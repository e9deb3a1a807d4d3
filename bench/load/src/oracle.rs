//! Expected unread counts, computed from the acknowledged sends alone. A message is unread for every
//! participant but its author, because the users of the scenarios read nothing.

use std::collections::{BTreeMap, BTreeSet};

/// Index of a user in the scenario.
pub type UserIndex = usize;

/// Acknowledged sends of one dialog.
#[derive(Debug, Clone)]
pub struct Dialog {
    /// Id in the system under test.
    pub id: String,
    /// Participants.
    pub members: Vec<UserIndex>,
    /// Author by the seq of the message.
    authors: BTreeMap<u64, UserIndex>,
}

/// Counts of one user: the total, and the unread messages of each dialog that has some.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of unread messages in all dialogs.
    pub total: u64,
    /// Number of unread messages by dialog.
    pub dialogs: BTreeMap<String, u64>,
}

/// All dialogs and the messages that the system has acknowledged.
#[derive(Debug, Default, Clone)]
pub struct Oracle {
    dialogs: Vec<Dialog>,
    doubled: Vec<String>,
}

impl Oracle {
    /// Adds a dialog and returns its index.
    pub fn add_dialog(&mut self, id: String, members: Vec<UserIndex>) -> usize {
        self.dialogs.push(Dialog { id, members, authors: BTreeMap::new() });
        self.dialogs.len() - 1
    }

    /// Returns the dialogs in the order of their indices.
    pub fn dialogs(&self) -> &[Dialog] {
        &self.dialogs
    }

    /// Records an acknowledged send.
    pub fn record(&mut self, dialog: usize, author: UserIndex, seq: u64) {
        let dialog = &mut self.dialogs[dialog];
        if dialog.authors.insert(seq, author).is_some() {
            self.doubled.push(format!("dialog {}: seq {seq} was given to two messages", dialog.id));
        }
    }

    /// Returns the number of messages of a dialog.
    pub fn head(&self, dialog: usize) -> u64 {
        self.dialogs[dialog].authors.len() as u64
    }

    /// Returns the sum of all users' totals.
    pub fn unread_sum(&self) -> u64 {
        self.dialogs.iter().map(|dialog| (dialog.authors.len() * (dialog.members.len() - 1)) as u64).sum()
    }

    /// Returns the expected counts of a user.
    pub fn expected(&self, user: UserIndex) -> Counts {
        let of_user = self.dialogs.iter().filter(|dialog| dialog.members.contains(&user));
        let unread = |dialog: &Dialog| dialog.authors.values().filter(|author| **author != user).count();
        let dialogs: BTreeMap<String, u64> = of_user
            .map(|dialog| (dialog.id.clone(), unread(dialog) as u64))
            .filter(|(_, unread)| *unread > 0)
            .collect();
        Counts { total: dialogs.values().sum(), dialogs }
    }

    /// Returns the numbers that were given twice or never: a dialog numbers its messages 1, 2, 3 and so on.
    pub fn misnumbered(&self) -> Vec<String> {
        let mut found = self.doubled.clone();
        for dialog in &self.dialogs {
            let gap = (1..).zip(dialog.authors.keys()).find(|(expected, seq)| expected != *seq);
            if let Some((expected, seq)) = gap {
                found.push(format!("dialog {}: seq {seq} follows {}", dialog.id, expected - 1));
            }
        }
        found
    }
}

/// Returns a line for every number in which the counts differ.
pub fn differences(user: &str, expected: &Counts, actual: &Counts) -> Vec<String> {
    let mut lines = Vec::new();
    if expected.total != actual.total {
        lines.push(format!("user {user}: total {}, expected {}", actual.total, expected.total));
    }
    let ids: BTreeSet<&String> = expected.dialogs.keys().chain(actual.dialogs.keys()).collect();
    for id in ids {
        let of = |counts: &Counts| counts.dialogs.get(id).copied().unwrap_or_default();
        if of(expected) != of(actual) {
            lines.push(format!("user {user}, dialog {id}: {}, expected {}", of(actual), of(expected)));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(rows: &[(&str, u64)]) -> Counts {
        let dialogs: BTreeMap<String, u64> =
            rows.iter().map(|(id, count)| ((*id).to_owned(), *count)).collect();
        Counts { total: dialogs.values().sum(), dialogs }
    }

    fn oracle(sends: &[(usize, UserIndex, u64)]) -> Oracle {
        let mut oracle = Oracle::default();
        oracle.add_dialog("a".to_owned(), vec![0, 1]);
        oracle.add_dialog("b".to_owned(), vec![0, 1, 2]);
        sends.iter().for_each(|(dialog, author, seq)| oracle.record(*dialog, *author, *seq));
        oracle
    }

    #[test]
    fn a_message_is_unread_for_everybody_but_its_author() {
        let oracle = oracle(&[(0, 0, 1), (1, 0, 1), (1, 2, 2)]);
        assert_eq!(oracle.expected(0), counts(&[("b", 1)]));
        assert_eq!(oracle.expected(1), counts(&[("a", 1), ("b", 2)]));
        assert_eq!(oracle.expected(2), counts(&[("b", 1)]));
        assert_eq!(oracle.unread_sum(), 5);
        assert_eq!(oracle.misnumbered(), Vec::<String>::new());
    }

    #[test]
    fn a_number_that_is_missing_or_doubled_is_found() {
        assert_eq!(oracle(&[(0, 0, 1), (0, 0, 3)]).misnumbered(), ["dialog a: seq 3 follows 1"]);
        assert_eq!(oracle(&[(0, 0, 1), (0, 1, 1)]).misnumbered().len(), 1);
    }

    #[test]
    fn a_wrong_total_and_a_wrong_row_are_found() {
        let expected = counts(&[("a", 1), ("b", 2)]);
        assert_eq!(differences("u", &expected, &expected), Vec::<String>::new());
        let wrong = Counts { total: 4, dialogs: counts(&[("a", 1), ("c", 2)]).dialogs };
        assert_eq!(
            differences("u", &expected, &wrong),
            [
                "user u: total 4, expected 3",
                "user u, dialog b: 0, expected 2",
                "user u, dialog c: 2, expected 0"
            ]
        );
    }
}
