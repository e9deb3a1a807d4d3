//! A person's unread counts as a client knows them from the frames of the subscription `unread`, and their
//! comparison with the query.

use std::collections::BTreeMap;

use serde_json::Value;

/// Counts that the frames so far add up to.
#[derive(Debug, Clone, Default)]
pub struct Badge {
    /// Version of the newest frame, from which a new subscription resumes; `None` before the first frame.
    pub version: Option<String>,
    /// Number of unread messages.
    pub total: i64,
    /// Number of frames.
    pub frames: u64,
    /// Unread messages by dialog, without those that are 0.
    rows: BTreeMap<String, i64>,
    /// Changes that do not follow the frame before them.
    gaps: u64,
}

/// Counts of the query `unread`.
#[derive(Debug, Clone)]
pub struct Counts {
    pub version: String,
    pub total: i64,
    pub stale: bool,
    rows: BTreeMap<String, i64>,
}

impl Badge {
    /// Adds a frame.
    pub fn fold(&mut self, frame: &Value) {
        self.frames += 1;
        match frame["kind"].as_str() {
            Some("SNAPSHOT") => self.rows.clear(),
            Some("CHANGE") if frame["previousVersion"].as_str() != self.version.as_deref() => self.gaps += 1,
            _ => {}
        }
        self.total = number(&frame["total"]);
        self.version = frame["version"].as_str().map(str::to_owned);
        self.rows.extend(rows(&frame["changed"]));
        self.rows.retain(|_, unread| *unread != 0);
    }

    /// Returns the dialogs with unread messages.
    pub fn unread_dialogs(&self) -> Vec<String> {
        self.rows.keys().cloned().collect()
    }

    /// Compares with the query. Each difference is one line.
    pub fn differences(&self, counts: &Counts) -> Vec<String> {
        let mut lines = Vec::new();
        if self.version.as_deref() != Some(&*counts.version) {
            let newest = self.version.as_deref().unwrap_or("no version");
            lines.push(format!("the frames end at {newest}, the query is at {}", counts.version));
        }
        if self.gaps > 0 {
            lines.push(format!("{} frames are missing", self.gaps));
        }
        if counts.stale {
            lines.push("the query says that its numbers may be wrong".to_owned());
        }
        if self.total != counts.total {
            lines.push(format!("{} unread by the frames, {} by the query", self.total, counts.total));
        }
        let sum: i64 = self.rows.values().sum();
        if sum != self.total {
            lines.push(format!("the frames have a total of {} and rows of {sum}", self.total));
        }
        let mut dialogs: Vec<&String> = self.rows.keys().chain(counts.rows.keys()).collect();
        dialogs.sort_unstable();
        dialogs.dedup();
        for dialog in dialogs {
            let of = |rows: &BTreeMap<String, i64>| rows.get(dialog).copied().unwrap_or(0);
            let folded = of(&self.rows);
            let asked = of(&counts.rows);
            if folded != asked {
                lines.push(format!("dialog {dialog}: {folded} by the frames, {asked} by the query"));
            }
        }
        lines
    }
}

impl Counts {
    /// Parses the field `unread` of the query.
    pub fn parse(unread: &Value) -> Self {
        Self {
            version: unread["version"].as_str().unwrap_or_default().to_owned(),
            total: number(&unread["total"]),
            stale: unread["stale"] == true,
            rows: rows(&unread["dialogs"]).filter(|(_, unread)| *unread != 0).collect(),
        }
    }
}

fn rows(list: &Value) -> impl Iterator<Item = (String, i64)> {
    let row = |row: &Value| Some((row["dialogId"].as_str()?.to_owned(), number(&row["unread"])));
    list.as_array().into_iter().flatten().filter_map(row)
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn frame(kind: &str, versions: (Option<&str>, &str), total: i64, rows: &[(&str, i64)]) -> Value {
        let rows: Vec<Value> =
            rows.iter().map(|(dialog, unread)| json!({"dialogId": dialog, "unread": unread})).collect();
        let (previous, version) = versions;
        let versions = json!({"kind": kind, "previousVersion": previous, "version": version});
        let mut frame = versions;
        frame["total"] = json!(total);
        frame["changed"] = json!(rows);
        frame
    }

    fn counts(version: &str, total: i64, dialogs: &[(&str, i64)]) -> Counts {
        let rows: Vec<Value> =
            dialogs.iter().map(|(dialog, unread)| json!({"dialogId": dialog, "unread": unread})).collect();
        Counts::parse(&json!({"version": version, "total": total, "stale": false, "dialogs": rows}))
    }

    fn folded() -> Badge {
        let mut badge = Badge::default();
        badge.fold(&frame("SNAPSHOT", (None, "1-4"), 3, &[("a", 3)]));
        badge.fold(&frame("CHANGE", (Some("1-4"), "1-6"), 5, &[("a", 3), ("b", 2)]));
        badge.fold(&frame("CHANGE", (Some("1-6"), "1-7"), 2, &[("a", 0)]));
        badge
    }

    #[test]
    fn frames_add_up_to_the_counts_of_the_query() {
        let mut badge = folded();
        assert_eq!(badge.differences(&counts("1-7", 2, &[("b", 2)])), [""; 0]);
        assert_eq!((badge.total, badge.frames, badge.unread_dialogs()), (2, 3, vec!["b".to_owned()]));
        badge.fold(&frame("CURRENT", (None, "1-7"), 2, &[]));
        assert_eq!(badge.differences(&counts("1-7", 2, &[("b", 2)])), [""; 0]);
        badge.fold(&frame("SNAPSHOT", (None, "1-9"), 1, &[("c", 1)]));
        assert_eq!(badge.differences(&counts("1-9", 1, &[("c", 1)])), [""; 0]);
    }

    #[test]
    fn every_difference_is_found() {
        let badge = folded();
        let lines = |counts: Counts| badge.differences(&counts).join("; ");
        assert_eq!(lines(counts("1-8", 2, &[("b", 2)])), "the frames end at 1-7, the query is at 1-8");
        let total_and_row =
            "2 unread by the frames, 3 by the query; dialog b: 2 by the frames, 3 by the query";
        assert_eq!(lines(counts("1-7", 3, &[("b", 3)])), total_and_row);
        let rows = "dialog a: 0 by the frames, 2 by the query; dialog b: 2 by the frames, 0 by the query";
        assert_eq!(lines(counts("1-7", 2, &[("a", 2)])), rows);
        let stale = Counts { stale: true, ..counts("1-7", 2, &[("b", 2)]) };
        assert_eq!(lines(stale), "the query says that its numbers may be wrong");
        let mut wrong = folded();
        wrong.fold(&frame("CHANGE", (Some("1-6"), "1-8"), 9, &[("a", 1)]));
        let found = wrong.differences(&counts("1-8", 9, &[("a", 1), ("b", 2)]));
        assert_eq!(found, ["1 frames are missing", "the frames have a total of 9 and rows of 3"]);
    }
}
