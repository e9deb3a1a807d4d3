//! Mutation tests of the statements: each fault replaces one rule in the SQL, and the comparison with the
//! kernel must find it within a few groups of random histories.

use super::tests::{GROUP, compare, databases_with_refusals};

/// Number of groups of histories within which every fault must be found.
const GROUPS: u64 = 10;

/// Fault, the rule as it is in the source, and its replacement.
const FAULTS: [(&str, &str, &str); 14] = [
    ("a message counts for members who have read past it", " and m.read_seq < c.seq", ""),
    ("the author's own message counts", "m.user_id <> c.author_id and ", ""),
    (
        "a member who has left keeps the count",
        "case when joined_seq is null then 0",
        "case when joined_seq is null then unread",
    ),
    ("messages before the join count", "m.joined_seq < c.seq and", "m.joined_seq is not null and"),
    ("counts are set, not added to", "unread = member_counter.unread + d.delta", "unread = abs(d.delta)"),
    (
        "a stale membership replaces a newer one",
        "where excluded.membership_version > member_counter.membership_version",
        "where true",
    ),
    (
        "a stale read moves the pointer back",
        "where excluded.read_seq > member_counter.read_seq",
        "where true",
    ),
    ("counting again ignores the join", "l.seq > member_counter.joined_seq and ", ""),
    ("counting again ignores the pointer", " and l.seq > member_counter.read_seq", ""),
    ("void messages are counted again", " and l.state = 'counted'", ""),
    ("own messages are counted again", " and l.author_id <> member_counter.user_id", ""),
    ("sending reads what others sent", "where l.author_id = member_counter.user_id", ""),
    ("a gap is forgotten", "missing = r.missing", "missing = dialog_applied.missing"),
    (
        "a member who has left keeps a stale count",
        "where a.missing <> '[]' and m.joined_seq is not null and not m.has_left",
        "where a.missing <> '[]'",
    ),
];

#[tokio::test]
async fn every_fault_in_a_statement_is_found() {
    let sources = concat!(include_str!("apply.rs"), include_str!("lock.rs"));
    for (fault, rule, replacement) in FAULTS {
        assert_eq!(sources.matches(rule).count(), 1, "{fault}: the statements have the rule");
        let mut found = false;
        for group in 0..GROUPS {
            found = is_found(rule, replacement, group).await;
            if found {
                break;
            }
        }
        assert!(found, "not found in {GROUPS} groups of {GROUP} histories: {fault}");
    }
    println!("{} faults in statements found", FAULTS.len());
}

/// Returns true if a group of histories finds the fault on every kind of database.
async fn is_found(rule: &'static str, replacement: &'static str, group: u64) -> bool {
    for test in databases_with_refusals().await {
        test.db.plant_fault(rule, replacement);
        if compare(&test, group * GROUP..(group + 1) * GROUP).await.is_ok() {
            return false;
        }
    }
    true
}
