//! Violations that a run has found, by the rule that they break.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

/// Examples kept and printed for each rule.
const EXAMPLES_MAX: usize = 8;

/// A rule that must hold under every fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// An acknowledged message is stored.
    Lost,
    /// One client key is one message.
    Double,
    /// A number without `stale: true` is exact while the system is at rest.
    WrongWithoutStale,
    /// A revoked token is refused at once where the log-out was answered, elsewhere within 2 s.
    AcceptedAfterLogOut,
    /// A frame continues the version before it.
    FrameGap,
    /// The state folded from frames equals the server's at the same version.
    ViewDiffers,
    /// One version of a user's counters means one state.
    TwoStates,
    /// An acknowledged read pointer does not go back, unless the counter's database was restored.
    ReadLost,
    /// The stored participants are those that were acknowledged.
    Membership,
    /// No outage fails a message.
    Failed,
    /// No event becomes a dead letter.
    DeadLetter,
    /// The counter's tables equal the counts calculated from dialog's tables and the read pointers.
    Tables,
    /// Without load, outboxes empty and nothing stays PENDING or unapplied.
    NotAtRest,
    /// The system works again by itself after a fault.
    NotHealed,
    /// No number is stale at the end.
    StillStale,
    /// No call of a member is refused.
    Refused,
    /// Every send succeeds, if it is repeated with its key.
    FailedSend,
    /// `tidings reconcile` finds no difference at the end.
    Drift,
    /// No signal ended the run.
    Interrupted,
}

impl Rule {
    const ALL: [Self; 19] = [
        Self::Lost,
        Self::Double,
        Self::WrongWithoutStale,
        Self::AcceptedAfterLogOut,
        Self::FrameGap,
        Self::ViewDiffers,
        Self::TwoStates,
        Self::ReadLost,
        Self::Membership,
        Self::Failed,
        Self::DeadLetter,
        Self::Tables,
        Self::NotAtRest,
        Self::NotHealed,
        Self::StillStale,
        Self::Refused,
        Self::FailedSend,
        Self::Drift,
        Self::Interrupted,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Double => "double",
            Self::WrongWithoutStale => "wrong without stale",
            Self::AcceptedAfterLogOut => "accepted after log-out",
            Self::FrameGap => "gaps between frames",
            Self::ViewDiffers => "clients' states that differ from the server's",
            Self::TwoStates => "versions with two states",
            Self::ReadLost => "acknowledged reads that went back",
            Self::Membership => "wrong memberships",
            Self::Failed => "FAILED messages",
            Self::DeadLetter => "dead letters",
            Self::Tables => "wrong rows in the counter's tables",
            Self::NotAtRest => "times not at rest",
            Self::NotHealed => "faults not healed",
            Self::StillStale => "numbers stale at the end",
            Self::Refused => "unexpected refusals",
            Self::FailedSend => "failed sends",
            Self::Drift => "drift",
            Self::Interrupted => "interrupted by a signal",
        }
    }
}

/// Violations so far. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Findings(Arc<Mutex<BTreeMap<Rule, Vec<String>>>>);

impl Findings {
    /// Records a violation and prints it at once.
    pub fn add(&self, rule: Rule, what: impl Into<String>) {
        let what = what.into();
        let mut all = self.0.lock();
        let found = all.entry(rule).or_default();
        if found.len() < EXAMPLES_MAX {
            println!("VIOLATION {}: {what}", rule.label());
        }
        // Later ones are only counted.
        found.push(if found.len() < EXAMPLES_MAX { what } else { String::new() });
    }

    /// Returns the number of violations of a rule.
    pub fn count(&self, rule: Rule) -> usize {
        self.0.lock().get(&rule).map_or(0, Vec::len)
    }

    /// Returns the number of violations of all rules.
    pub fn total(&self) -> usize {
        self.0.lock().values().map(Vec::len).sum()
    }

    /// Prints the number of violations of every rule, and examples.
    pub fn print(&self) {
        for rule in Rule::ALL {
            println!("{:<46} {:>6}", rule.label(), self.count(rule));
        }
        for (rule, found) in self.0.lock().iter() {
            for what in found.iter().take(EXAMPLES_MAX) {
                println!("  {}: {what}", rule.label());
            }
        }
    }
}
