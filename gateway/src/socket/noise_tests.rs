//! The machine against noise: whatever a client or the driver does, in either subprotocol, it keeps its promises.

use std::time::Duration;

use proptest::{collection::vec, prelude::*};

use super::{
    message::Outgoing,
    protocol::{Action, Input, OPERATIONS_MAX, Operation, Refusal},
    protocol_tests::{INIT, PING, Socket, complete, subscribe},
    subprotocol::Subprotocol,
};

/// Something a client or the driver may do, valid often enough to get far.
#[derive(Debug, Clone)]
enum Step {
    Text(String),
    Binary,
    Control,
    Authenticated(Result<Option<u64>, Refusal>),
    Next(usize),
    Refused(usize),
    Ended(usize),
    Pass(u64),
}

fn messages(subprotocol: Subprotocol) -> impl Strategy<Value = String> {
    let ids = prop_oneof![Just("1"), Just("2"), Just(""), Just("\\u0000"), Just("ü\\\"")];
    // Now and then the words are those of the other subprotocol.
    let words =
        prop_oneof![20 => Just(subprotocol), 1 => Just(Subprotocol::New), 1 => Just(Subprotocol::Old)];
    let alive = if subprotocol == Subprotocol::New { PING } else { INIT };
    let valid = prop_oneof![
        6 => (words.clone(), ids.clone()).prop_map(|(words, id)| subscribe(words, id)),
        3 => (words, ids).prop_map(|(words, id)| complete(words, id)),
        2 => Just(INIT.to_owned()),
        2 => Just(alive.to_owned()),
        1 => Just(r#"{"type":"pong","payload":{"a":1}}"#.to_owned()),
        1 => Just(r#"{"type":"connection_terminate"}"#.to_owned()),
        1 => Just(r#"{"type":"connection_init","payload":{"Authorization":["x"]}}"#.to_owned()),
    ];
    let mutated =
        (valid.clone(), any::<prop::sample::Index>(), any::<char>()).prop_map(|(text, at, with)| {
            let mut chars: Vec<char> = text.chars().collect();
            let at = at.index(chars.len());
            chars[at] = with;
            chars.into_iter().collect()
        });
    let cut = (valid.clone(), any::<prop::sample::Index>()).prop_map(|(text, at)| {
        let count = text.chars().count();
        text.chars().take(at.index(count)).collect()
    });
    prop_oneof![12 => valid, 2 => mutated, 1 => cut, 1 => any::<String>()]
}

fn histories() -> impl Strategy<Value = (Subprotocol, Vec<Step>)> {
    let dialects = prop_oneof![Just(Subprotocol::New), Just(Subprotocol::Old)];
    dialects.prop_flat_map(|subprotocol| (Just(subprotocol), vec(steps(subprotocol), 0..60)))
}

fn steps(subprotocol: Subprotocol) -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => messages(subprotocol).prop_map(Step::Text),
        1 => Just(Step::Binary),
        2 => Just(Step::Control),
        4 => prop_oneof![
            8 => prop::option::of(0_u64..100).prop_map(Ok),
            1 => Just(Err(Refusal::Token)),
        ].prop_map(Step::Authenticated),
        3 => (0_usize..8).prop_map(Step::Next),
        1 => (0_usize..8).prop_map(Step::Refused),
        2 => (0_usize..8).prop_map(Step::Ended),
        3 => (0_u64..25).prop_map(Step::Pass),
    ]
}

/// What must hold of every answer, whatever came in.
struct Watch {
    subprotocol: Subprotocol,
    started: Vec<Operation>,
    running: Vec<(String, Operation)>,
    acknowledged: bool,
    closed: bool,
}

impl Watch {
    fn new(subprotocol: Subprotocol) -> Self {
        Self { subprotocol, started: Vec::new(), running: Vec::new(), acknowledged: false, closed: false }
    }

    fn see(&mut self, action: &Action, input: &str) {
        assert!(!self.closed, "something after a close: {action:?}");
        match action {
            Action::Close(close) => {
                assert!(close.reason().len() < 100);
                let known = [1000, 1009, 1012, 1013, 4400, 4401, 4403, 4408, 4409, 4429];
                assert!(known.contains(&close.code), "{close:?}");
                self.closed = true;
            }
            Action::Authenticate(_) => assert!(!self.acknowledged),
            Action::Probe => assert!(self.acknowledged && self.subprotocol == Subprotocol::Old),
            Action::Start(operation, _) => {
                assert!(self.acknowledged && !self.started.contains(operation));
                let message: serde_json::Value = serde_json::from_str(input).expect("it was read");
                self.started.push(*operation);
                self.running.push((message["id"].as_str().expect("an id").to_owned(), *operation));
                assert!(self.running.len() <= OPERATIONS_MAX);
            }
            Action::Stop(operation) => self.running.retain(|(_, it)| it != operation),
            Action::Send(outgoing) => self.sent(outgoing),
        }
    }

    fn sent(&mut self, outgoing: &Outgoing) {
        let Some(text) = outgoing.text(self.subprotocol) else {
            return assert!(
                matches!(outgoing, Outgoing::Rejection { .. }),
                "only the old protocol tells that"
            );
        };
        let message: serde_json::Value = serde_json::from_str(&text).expect("JSON goes out");
        match outgoing {
            Outgoing::Ack => {
                assert!(!self.acknowledged, "acknowledged twice");
                self.acknowledged = true;
            }
            Outgoing::Next { .. } => assert!(self.running.iter().any(|(id, _)| message["id"] == **id)),
            Outgoing::Complete { .. } | Outgoing::Error { .. } => {
                let at = self.running.iter().position(|(id, _)| message["id"] == **id);
                self.running.remove(at.expect("only what runs can end"));
            }
            Outgoing::Rejection { .. } => assert!(!self.acknowledged),
            Outgoing::Ping { .. } | Outgoing::Pong { .. } => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_history_makes_the_machine_break_its_promises((subprotocol, steps) in histories()) {
        let mut socket = Socket::new(subprotocol);
        let mut watch = Watch::new(subprotocol);
        for step in steps {
            let nth = |watch: &Watch, at: usize| watch.started.get(at).copied();
            let (input, actions) = match step {
                Step::Text(text) => { let actions = socket.text(&text); (text, actions) }
                Step::Binary => (String::new(), socket.handle(Input::Binary)),
                Step::Control => (String::new(), socket.handle(Input::Control)),
                Step::Authenticated(answer) => {
                    let now = socket.now;
                    let answer = answer.map(|at| at.map(|seconds| now + Duration::from_secs(seconds)));
                    (String::new(), socket.handle(Input::Authenticated(answer)))
                }
                Step::Next(at) => (String::new(), nth(&watch, at).map_or_else(Vec::new, |it| socket.handle(Input::Next(it, "{}".into())))),
                Step::Refused(at) => (String::new(), nth(&watch, at).map_or_else(Vec::new, |it| socket.handle(Input::Refused(it, "[]".into())))),
                Step::Ended(at) => (String::new(), nth(&watch, at).map_or_else(Vec::new, |it| socket.handle(Input::Ended(it)))),
                Step::Pass(seconds) => (String::new(), socket.pass(seconds).into_iter().map(|(_, action)| action).collect()),
            };
            for action in &actions {
                watch.see(action, &input);
            }
            prop_assert_eq!(socket.protocol.operations(), if watch.closed { 0 } else { watch.running.len() });
        }
    }

    #[test]
    fn any_text_is_answered_or_closed(text in any::<String>()) {
        for subprotocol in Subprotocol::ALL {
            for mut socket in [Socket::new(subprotocol), Socket::open(subprotocol)] {
                prop_assert!(socket.text(&text).len() <= 1);
            }
        }
    }
}
