//! Every row of the WebSocket table against the machine, and the machine against noise.

use std::time::Duration;

use proptest::{collection::vec, prelude::*};
use tokio::time::Instant;

use super::{
    message::Outgoing,
    protocol::{Action, FRAME_MAX, Input, OPERATIONS_MAX, Operation, Protocol, Refusal},
};

const INIT: &str = r#"{"type":"connection_init"}"#;
const PING: &str = r#"{"type":"ping"}"#;

fn subscribe(id: &str) -> String {
    format!(r#"{{"type":"subscribe","id":"{id}","payload":{{"query":"{{me{{id}}}}"}}}}"#)
}

fn complete(id: &str) -> String {
    format!(r#"{{"type":"complete","id":"{id}"}}"#)
}

/// A socket with a clock of its own.
struct Socket {
    protocol: Protocol,
    now: Instant,
    began: Instant,
}

impl Socket {
    fn new() -> Self {
        let now = Instant::now();
        Self { protocol: Protocol::new(now), now, began: now }
    }

    fn open() -> Self {
        Self::open_until(None)
    }

    fn open_until(expires_in_s: Option<u64>) -> Self {
        let mut socket = Self::new();
        assert!(matches!(socket.text(INIT)[..], [Action::Authenticate(None)]));
        let expires_at = expires_in_s.map(|seconds| socket.now + Duration::from_secs(seconds));
        let actions = socket.handle(Input::Authenticated(Ok(expires_at)));
        assert!(matches!(actions[..], [Action::Send(Outgoing::Ack)]));
        socket
    }

    fn handle(&mut self, input: Input<'_>) -> Vec<Action> {
        self.protocol.handle(input, self.now)
    }

    fn text(&mut self, text: &str) -> Vec<Action> {
        self.handle(Input::Text(text))
    }

    fn start(&mut self, id: &str) -> Operation {
        match self.text(&subscribe(id))[..] {
            [Action::Start(operation, _)] => operation,
            ref other => panic!("{other:?}"),
        }
    }

    /// Lets time pass, timer by timer, and gives what was done, each with the second at which it was.
    fn pass(&mut self, duration_s: u64) -> Vec<(u64, Action)> {
        let end = self.now + Duration::from_secs(duration_s);
        let mut done = Vec::new();
        while let Some(deadline) = self.protocol.deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            let second = (self.now - self.began).as_secs();
            done.extend(self.handle(Input::Timer).into_iter().map(|action| (second, action)));
            assert!(done.len() < 1000, "the timer is always due");
        }
        self.now = end;
        done
    }
}

fn closed(actions: &[Action]) -> u16 {
    match actions {
        [Action::Close(close)] => {
            assert!(close.reason().len() < 100);
            close.code
        }
        other => panic!("not closed: {other:?}"),
    }
}

fn sent(actions: &[Action]) -> String {
    match actions {
        [Action::Send(outgoing)] => outgoing.text(),
        other => panic!("not one message: {other:?}"),
    }
}

#[test]
fn without_connection_init_for_3_s_the_socket_closes_with_4408() {
    let mut socket = Socket::new();
    assert!(socket.pass(2).is_empty());
    let done = socket.pass(2);
    assert_eq!((done[0].0, closed(&[done.into_iter().next().expect("one").1])), (3, 4408));
}

#[test]
fn a_refused_client_is_told_why() {
    for (refusal, code) in [(Refusal::Token, 4403), (Refusal::TooManySockets, 4429), (Refusal::Unavailable, 1013)] {
        let mut socket = Socket::new();
        let actions = socket.text(r#"{"type":"connection_init","payload":{"authorization":"Bearer t"}}"#);
        let [Action::Authenticate(Some(token))] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(token.expose(), "t");
        assert_eq!(closed(&socket.handle(Input::Authenticated(Err(refusal)))), code);
    }
}

#[test]
fn a_second_connection_init_closes_with_4429() {
    assert_eq!(closed(&Socket::open().text(INIT)), 4429);
    let mut early = Socket::new();
    early.text(INIT);
    assert_eq!(closed(&early.text(INIT)), 4429, "also before the first is answered");
}

#[test]
fn subscribe_before_the_ack_closes_with_4401() {
    assert_eq!(closed(&Socket::new().text(&subscribe("1"))), 4401);
    let mut early = Socket::new();
    early.text(INIT);
    assert_eq!(closed(&early.text(&subscribe("1"))), 4401);
    assert!(early.handle(Input::Authenticated(Ok(None))).is_empty(), "a late answer opens nothing");
}

#[test]
fn a_bad_message_closes_with_4400_in_every_phase() {
    let bad = ["", "x", "[]", r#"{"type":"start","id":"1","payload":{"query":"{a}"}}"#, r#"{"type":"subscribe"}"#];
    for text in bad {
        assert_eq!(closed(&Socket::new().text(text)), 4400, "{text}");
        assert_eq!(closed(&Socket::open().text(text)), 4400, "{text}");
    }
    assert_eq!(closed(&Socket::new().handle(Input::Binary)), 4400);
    assert_eq!(closed(&Socket::open().handle(Input::Binary)), 4400);
}

#[test]
fn an_id_in_use_closes_with_4409() {
    let mut socket = Socket::open();
    socket.start("1");
    assert_eq!(closed(&socket.text(&subscribe("1"))), 4409);
    let mut long = Socket::open();
    let id = "é".repeat(128);
    long.start(&id);
    assert_eq!(closed(&long.text(&subscribe(&id))), 4409);
}

#[test]
fn a_refused_operation_is_an_error_with_an_array_and_its_id_is_free_again() {
    let mut socket = Socket::open();
    let operation = socket.start("1");
    let message = sent(&socket.handle(Input::Refused(operation, r#"[{"message":"no"}]"#.into())));
    assert_eq!(message, r#"{"id":"1","type":"error","payload":[{"message":"no"}]}"#);
    assert!(socket.handle(Input::Ended(operation)).is_empty(), "nothing follows an error");
    socket.start("1");
}

#[test]
fn results_are_sent_in_order_and_an_end_is_told_once() {
    let mut socket = Socket::open();
    let operation = socket.start("a");
    let next = sent(&socket.handle(Input::Next(operation, r#"{"data":{}}"#.into())));
    assert_eq!(next, r#"{"id":"a","type":"next","payload":{"data":{}}}"#);
    assert_eq!(sent(&socket.handle(Input::Ended(operation))), r#"{"id":"a","type":"complete"}"#);
    assert!(socket.handle(Input::Ended(operation)).is_empty());
    assert_eq!(socket.protocol.operations(), 0);
}

#[test]
fn after_complete_nothing_comes_for_that_id_and_it_is_free_again() {
    let mut socket = Socket::open();
    let first = socket.start("1");
    assert!(matches!(socket.text(&complete("1"))[..], [Action::Stop(it)] if it == first));
    assert!(socket.text(&complete("1")).is_empty(), "unknown ids are let pass");
    let second = socket.start("1");
    assert_ne!(first, second);
    for late in [Input::Next(first, "{}".into()), Input::Refused(first, "[]".into()), Input::Ended(first)] {
        assert!(socket.handle(late).is_empty(), "late results are not the new operation's");
    }
    assert_eq!(sent(&socket.handle(Input::Ended(second))), r#"{"id":"1","type":"complete"}"#);
}

#[test]
fn ping_is_answered_by_pong_with_its_payload() {
    assert_eq!(sent(&Socket::new().text(PING)), r#"{"type":"pong"}"#);
    let mut socket = Socket::open();
    assert_eq!(sent(&socket.text(PING)), r#"{"type":"pong"}"#);
    let pong = sent(&socket.text(r#"{"type":"ping","payload":{"a":[1]}}"#));
    assert_eq!(pong, r#"{"type":"pong","payload":{"a":[1]}}"#);
}

#[test]
fn a_silent_client_is_pinged_every_20_s_and_closed_after_40_s() {
    let mut done = Socket::open().pass(100);
    let (second, close) = done.pop().expect("a close");
    assert_eq!((second, closed(&[close])), (40, 4408));
    assert_eq!(done.len(), 1);
    assert_eq!((done[0].0, sent(&[done.remove(0).1])), (20, r#"{"type":"ping"}"#.to_owned()));
}

#[test]
fn a_client_that_answers_lives_on() {
    for sign in [Input::Text(r#"{"type":"pong"}"#), Input::Control, Input::Text(PING)] {
        let mut socket = Socket::open();
        let mut pings = 0;
        for _ in 0..30 {
            pings += socket.pass(20).len();
            let again = match &sign {
                Input::Text(text) => Input::Text(text),
                _ => Input::Control,
            };
            socket.handle(again);
        }
        assert_eq!(pings, 30);
    }
}

#[test]
fn a_frame_over_64_kb_closes_with_1009() {
    assert_eq!(closed(&Socket::open().text(&"x".repeat(FRAME_MAX + 1))), 1009);
    assert_eq!(closed(&Socket::open().handle(Input::TooLarge)), 1009);
}

#[test]
fn the_51st_operation_is_refused_and_the_socket_lives() {
    let mut socket = Socket::open();
    for number in 0..OPERATIONS_MAX {
        socket.start(&number.to_string());
    }
    let message = sent(&socket.text(&subscribe("more")));
    assert!(message.starts_with(r#"{"id":"more","type":"error","payload":[{"#), "{message}");
    assert!(message.contains("LIMIT_EXCEEDED"), "{message}");
    socket.text(&complete("7"));
    socket.start("more");
}

#[test]
fn an_expiring_token_is_announced_30_s_before_and_closes_with_4403() {
    let mut socket = Socket::open_until(Some(100));
    let mut told = Vec::new();
    for _ in 0..20 {
        told.extend(socket.pass(10));
        socket.handle(Input::Control);
    }
    let (second, close) = told.pop().expect("a close");
    assert_eq!((second, closed(&[close])), (100, 4403));
    let notices: Vec<_> =
        told.iter().filter(|(_, it)| matches!(it, Action::Send(Outgoing::Ping { expires_in_s: Some(30) }))).collect();
    assert_eq!(notices.len(), 1);
    assert_eq!(notices[0].0, 70);
}

#[test]
fn a_token_near_its_end_is_announced_at_once_and_one_past_it_is_refused() {
    let done = Socket::open_until(Some(5)).pass(4);
    assert_eq!(sent(&[done.into_iter().next().expect("a ping").1]), r#"{"type":"ping","payload":{"expiresIn":5}}"#);
    let mut late = Socket::new();
    late.text(INIT);
    let now = late.now;
    assert_eq!(closed(&late.handle(Input::Authenticated(Ok(Some(now))))), 4403);
}

#[test]
fn what_ends_a_socket_from_outside_has_its_code() {
    for (input, code) in
        [(Input::Revoked, 4401), (Input::Stalled, 1013), (Input::Restart, 1012), (Input::Malformed, 1002)]
    {
        let mut socket = Socket::open();
        let operation = socket.start("1");
        assert_eq!(closed(&socket.handle(input)), code);
        assert_eq!((socket.protocol.operations(), socket.protocol.deadline()), (0, None));
        assert!(socket.handle(Input::Next(operation, "{}".into())).is_empty());
        assert!(socket.text(PING).is_empty(), "a closed socket says nothing");
    }
}

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

fn messages() -> impl Strategy<Value = String> {
    let ids = prop_oneof![Just("1"), Just("2"), Just(""), Just("\\u0000"), Just("ü\\\"")];
    let valid = prop_oneof![
        6 => ids.clone().prop_map(subscribe),
        3 => ids.prop_map(complete),
        2 => Just(INIT.to_owned()),
        2 => Just(PING.to_owned()),
        2 => Just(r#"{"type":"pong","payload":{"a":1}}"#.to_owned()),
        1 => Just(r#"{"type":"connection_init","payload":{"Authorization":["x"]}}"#.to_owned()),
    ];
    let mutated = (valid.clone(), any::<prop::sample::Index>(), any::<char>()).prop_map(|(text, at, with)| {
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

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => messages().prop_map(Step::Text),
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
#[derive(Default)]
struct Watch {
    started: Vec<Operation>,
    running: Vec<(String, Operation)>,
    acknowledged: bool,
    closed: bool,
}

impl Watch {
    fn see(&mut self, action: &Action, input: &str) {
        assert!(!self.closed, "something after a close: {action:?}");
        match action {
            Action::Close(close) => {
                assert!(close.reason().len() < 100);
                let known = [1009, 1012, 1013, 4400, 4401, 4403, 4408, 4409, 4429];
                assert!(known.contains(&close.code), "{close:?}");
                self.closed = true;
            }
            Action::Authenticate(_) => assert!(!self.acknowledged),
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
        let message: serde_json::Value = serde_json::from_str(&outgoing.text()).expect("JSON goes out");
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
            Outgoing::Ping { .. } | Outgoing::Pong { .. } => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_history_makes_the_machine_break_its_promises(steps in vec(steps(), 0..60)) {
        let mut socket = Socket::new();
        let mut watch = Watch::default();
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
        for mut socket in [Socket::new(), Socket::open()] {
            prop_assert!(socket.text(&text).len() <= 1);
        }
    }
}
