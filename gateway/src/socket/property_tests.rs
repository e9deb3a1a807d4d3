//! Property tests of the state machine: it keeps its invariants under any sequence of inputs, in both
//! subprotocols.

use std::time::Duration;

use proptest::{collection::vec, prelude::*};

use super::{
    message::Outgoing,
    protocol::{Action, InitRejection, Input, OPERATIONS_MAX, Operation},
    protocol_tests::{INIT, PING, Socket, complete, subscribe},
    subprotocol::Subprotocol,
};

/// Input of a client or the driver. Most are valid, so that sequences reach deep states.
#[derive(Debug, Clone)]
enum Step {
    Text(String),
    Binary,
    Ping,
    Pong,
    Fragments(u64),
    Authenticated(Result<Option<u64>, InitRejection>),
    Next(usize),
    Rejected(usize),
    Completed(usize),
    Wait(u64),
}

fn messages(subprotocol: Subprotocol) -> impl Strategy<Value = String> {
    let ids = prop_oneof![Just("1"), Just("2"), Just(""), Just("\\u0000"), Just("ü\\\"")];
    // A few messages belong to the other subprotocol.
    let spoken = prop_oneof![
        20 => Just(subprotocol),
        1 => Just(Subprotocol::GraphqlTransportWs),
        1 => Just(Subprotocol::GraphqlWs),
    ];
    let keep_alive = if subprotocol == Subprotocol::GraphqlTransportWs { PING } else { INIT };
    let valid = prop_oneof![
        6 => (spoken.clone(), ids.clone()).prop_map(|(spoken, id)| subscribe(spoken, id)),
        3 => (spoken, ids).prop_map(|(spoken, id)| complete(spoken, id)),
        2 => Just(INIT.to_owned()),
        2 => Just(keep_alive.to_owned()),
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

fn sequences() -> impl Strategy<Value = (Subprotocol, Vec<Step>)> {
    let subprotocols = prop_oneof![Just(Subprotocol::GraphqlTransportWs), Just(Subprotocol::GraphqlWs)];
    subprotocols.prop_flat_map(|subprotocol| (Just(subprotocol), vec(steps(subprotocol), 0..60)))
}

fn steps(subprotocol: Subprotocol) -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => messages(subprotocol).prop_map(Step::Text),
        1 => Just(Step::Binary),
        1 => Just(Step::Ping),
        1 => Just(Step::Pong),
        1 => (0_u64..3).prop_map(Step::Fragments),
        4 => prop_oneof![
            8 => prop::option::of(0_u64..100).prop_map(Ok),
            1 => Just(Err(InitRejection::InvalidToken)),
        ].prop_map(Step::Authenticated),
        3 => (0_usize..8).prop_map(Step::Next),
        1 => (0_usize..8).prop_map(Step::Rejected),
        2 => (0_usize..8).prop_map(Step::Completed),
        3 => (0_u64..25).prop_map(Step::Wait),
    ]
}

/// Model of a socket: checks the invariants of every action.
struct Model {
    subprotocol: Subprotocol,
    started: Vec<Operation>,
    running: Vec<(String, Operation)>,
    acknowledged: bool,
    closed: bool,
}

impl Model {
    fn new(subprotocol: Subprotocol) -> Self {
        Self { subprotocol, started: Vec::new(), running: Vec::new(), acknowledged: false, closed: false }
    }

    fn observe(&mut self, action: &Action, input: &str) {
        assert!(!self.closed, "an action after a close: {action:?}");
        match action {
            Action::Close(close) => {
                assert!(close.reason().len() < 100);
                let known = [1000, 1009, 1012, 1013, 4400, 4401, 4403, 4408, 4409, 4429];
                assert!(known.contains(&close.code), "{close:?}");
                self.closed = true;
            }
            Action::Authenticate(_) => assert!(!self.acknowledged),
            Action::Ping => assert!(self.acknowledged && self.subprotocol == Subprotocol::GraphqlWs),
            Action::Start(operation, _) => {
                assert!(self.acknowledged && !self.started.contains(operation));
                let message: serde_json::Value = serde_json::from_str(input).expect("it was parsed");
                self.started.push(*operation);
                self.running.push((message["id"].as_str().expect("an id").to_owned(), *operation));
                assert!(self.running.len() <= OPERATIONS_MAX);
            }
            Action::Stop(operation) => self.running.retain(|(_, it)| it != operation),
            Action::Send(outgoing) => self.on_sent(outgoing),
        }
    }

    fn on_sent(&mut self, outgoing: &Outgoing) {
        let Some(text) = outgoing.text(self.subprotocol) else {
            return assert!(
                matches!(outgoing, Outgoing::ConnectionError { .. }),
                "only graphql-ws has connection_error"
            );
        };
        let message: serde_json::Value = serde_json::from_str(&text).expect("messages are JSON");
        match outgoing {
            Outgoing::Ack => {
                assert!(!self.acknowledged, "acknowledged twice");
                self.acknowledged = true;
            }
            Outgoing::Next { .. } => assert!(self.running.iter().any(|(id, _)| message["id"] == **id)),
            Outgoing::Complete { .. } | Outgoing::Error { .. } => {
                let at = self.running.iter().position(|(id, _)| message["id"] == **id);
                self.running.remove(at.expect("only a running operation can end"));
            }
            Outgoing::ConnectionError { .. } => assert!(!self.acknowledged),
            Outgoing::Ping { .. } | Outgoing::Pong { .. } => {}
        }
    }
}

/// Applies a step to the socket. A step for an operation that was never started does nothing.
fn apply(step: &Step, socket: &mut Socket, model: &Model) -> Vec<Action> {
    let operation = |at: &usize| model.started.get(*at).copied();
    let input = match step {
        Step::Text(text) => return socket.text(text),
        Step::Wait(seconds) => return socket.wait(*seconds).into_iter().map(|(_, action)| action).collect(),
        Step::Binary => Some(Input::Binary),
        Step::Ping => Some(Input::Ping),
        Step::Pong => Some(Input::Pong),
        Step::Fragments(count) => Some(Input::Fragments(*count)),
        Step::Authenticated(answer) => {
            let expires_at = |after_s| socket.now + Duration::from_secs(after_s);
            Some(Input::Authenticated(answer.map(|expires_in_s| expires_in_s.map(expires_at))))
        }
        Step::Next(at) => operation(at).map(|operation| Input::Next(operation, "{}".into())),
        Step::Rejected(at) => operation(at).map(|operation| Input::Rejected(operation, "[]".into())),
        Step::Completed(at) => operation(at).map(Input::Completed),
    };
    input.map_or_else(Vec::new, |input| socket.handle(input))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_invariants_hold_for_any_sequence_of_inputs((subprotocol, steps) in sequences()) {
        let mut socket = Socket::new(subprotocol);
        let mut model = Model::new(subprotocol);
        for step in steps {
            let text = if let Step::Text(text) = &step { text.as_str() } else { "" };
            for action in apply(&step, &mut socket, &model) {
                model.observe(&action, text);
            }
            let running = if model.closed { 0 } else { model.running.len() };
            prop_assert_eq!(socket.protocol.operation_count(), running);
        }
    }

    #[test]
    fn any_text_has_at_most_one_action(text in any::<String>()) {
        for subprotocol in Subprotocol::ALL {
            for mut socket in [Socket::new(subprotocol), Socket::open(subprotocol)] {
                prop_assert!(socket.text(&text).len() <= 1);
            }
        }
    }
}
