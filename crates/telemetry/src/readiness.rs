//! Whether this process should be given work: every component says so for itself, under its name. Degraded components
//! do not take the process out of service; those that are not ready do.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};

/// How a component is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It does its work.
    Ready,
    /// It does its work, less well; why.
    Degraded(String),
    /// It cannot do its work; why.
    NotReady(String),
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded(_) => "degraded",
            Self::NotReady(_) => "not_ready",
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Ready => json!({ "status": self.name() }),
            Self::Degraded(reason) | Self::NotReady(reason) => {
                json!({ "status": self.name(), "reason": reason })
            }
        }
    }
}

/// The components of a process. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, State>>>);

impl Readiness {
    /// Without components, which is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a component, not ready until it says so. The same name is the same component.
    pub fn register(&self, name: impl Into<String>) -> Component {
        let component = Component { name: name.into(), readiness: self.clone() };
        component.set(State::NotReady("starting".to_owned()));
        component
    }

    /// Whether no component refuses work.
    pub fn is_ready(&self) -> bool {
        self.report().0
    }

    /// Whether no component refuses work, and why: `{"status": …, "checks": {name: {"status": …, "reason": …}}}`, the
    /// status being that of the worst component.
    pub fn report(&self) -> (bool, Value) {
        self.with(|states| {
            let worst = states.values().max_by_key(|state| match state {
                State::Ready => 0,
                State::Degraded(_) => 1,
                State::NotReady(_) => 2,
            });
            let checks: serde_json::Map<_, _> =
                states.iter().map(|(name, state)| (name.clone(), state.json())).collect();
            let ready = !matches!(worst, Some(State::NotReady(_)));
            (ready, json!({ "status": worst.map_or("ready", State::name), "checks": checks }))
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<String, State>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A named component's own say.
#[derive(Clone, Debug)]
pub struct Component {
    name: String,
    readiness: Readiness,
}

impl Component {
    /// It does its work.
    pub fn ready(&self) {
        self.set(State::Ready);
    }

    /// It does its work, less well.
    pub fn degraded(&self, reason: impl Into<String>) {
        self.set(State::Degraded(reason.into()));
    }

    /// It cannot do its work.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(State::NotReady(reason.into()));
    }

    /// Says how it is. A change is logged.
    pub fn set(&self, state: State) {
        let now = state.clone();
        let before = self.readiness.with(|states| states.insert(self.name.clone(), state));
        let component = self.name.as_str();
        match &now {
            _ if before.as_ref() == Some(&now) || before.is_none() => {}
            State::Ready => tracing::info!(component, "ready"),
            State::Degraded(reason) => tracing::warn!(component, reason, "degraded"),
            State::NotReady(reason) => tracing::warn!(component, reason, "not ready"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_component_decides() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready(), "nothing refuses");
        let database = readiness.register("database");
        let log = readiness.register("log");
        assert!(!readiness.is_ready(), "both are starting");
        database.ready();
        log.degraded("the broker is away");
        let (ready, report) = readiness.report();
        assert!(ready);
        assert_eq!(
            report,
            json!({
                "status": "degraded",
                "checks": {
                    "database": { "status": "ready" },
                    "log": { "status": "degraded", "reason": "the broker is away" },
                },
            })
        );
        database.not_ready("no connection");
        assert_eq!((readiness.is_ready(), &readiness.report().1["status"]), (false, &json!("not_ready")));
    }

    #[test]
    fn one_name_is_one_component() {
        let readiness = Readiness::new();
        readiness.register("database").ready();
        readiness.register("database").ready();
        assert_eq!(readiness.report().1["checks"], json!({ "database": { "status": "ready" } }));
    }
}
