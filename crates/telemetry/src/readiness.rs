//! Readiness of the process: each component reports its state under its name. A component that is not
//! ready takes the process out of service; a degraded one does not.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use serde_json::{Value, json};

/// State of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Works.
    Ready,
    /// Works with limitations; the text is the reason.
    Degraded(String),
    /// Cannot work; the text is the reason.
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

/// Components of a process with their states. Cheap to clone; clones share the state.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, State>>>);

impl Readiness {
    /// Creates a readiness without components, which is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a component, which is not ready until it reports so. Registering a name again returns
    /// the same component, with the state reset.
    pub fn register(&self, name: impl Into<String>) -> Component {
        let component = Component { name: name.into(), readiness: self.clone() };
        component.set(State::NotReady("starting".to_owned()));
        component
    }

    /// Returns `true` if no component is [`State::NotReady`].
    pub fn is_ready(&self) -> bool {
        self.report().0
    }

    /// Returns [`is_ready`](Self::is_ready) and a report, `{"status": …, "checks": {name: {"status": …,
    /// "reason": …}}}`, with the status of the worst component.
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
        work(&mut self.0.lock())
    }
}

/// Handle by which a component reports its state.
#[derive(Clone, Debug)]
pub struct Component {
    name: String,
    readiness: Readiness,
}

impl Component {
    /// Reports that the component works.
    pub fn ready(&self) {
        self.set(State::Ready);
    }

    /// Reports that the component works with limitations.
    pub fn degraded(&self, reason: impl Into<String>) {
        self.set(State::Degraded(reason.into()));
    }

    /// Reports that the component cannot work.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(State::NotReady(reason.into()));
    }

    /// Reports a state. A change of state is logged.
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
        assert!(readiness.is_ready(), "no components");
        let database = readiness.register("database");
        let log = readiness.register("log");
        assert!(!readiness.is_ready(), "both components are starting");
        database.ready();
        log.degraded("the broker is unavailable");
        let (ready, report) = readiness.report();
        assert!(ready);
        assert_eq!(
            report,
            json!({
                "status": "degraded",
                "checks": {
                    "database": { "status": "ready" },
                    "log": { "status": "degraded", "reason": "the broker is unavailable" },
                },
            })
        );
        database.not_ready("no connection");
        assert_eq!((readiness.is_ready(), &readiness.report().1["status"]), (false, &json!("not_ready")));
    }

    #[test]
    fn a_name_registered_twice_is_one_component() {
        let readiness = Readiness::new();
        readiness.register("database").ready();
        readiness.register("database").ready();
        assert_eq!(readiness.report().1["checks"], json!({ "database": { "status": "ready" } }));
    }
}
