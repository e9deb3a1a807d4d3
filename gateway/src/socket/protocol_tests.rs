//! Tests of every row of the table in docs/protocol.md#websocket against the state machine, in both
//! subprotocols.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    message::Outgoing,
    protocol::{Action, FRAME_MAX, InitRejection, Input, OPERATIONS_MAX, Operation, Protocol},
    subprotocol::Subprotocol,
};

pub(super) const INIT: &str = r#"{"type":"connection_init"}"#;
pub(super) const PING: &str = r#"{"type":"ping"}"#;
const STOP: &str = r#"{"type":"stop","id":"0"}"#;

pub(super) fn subscribe(subprotocol: Subprotocol, id: &str) -> String {
    let kind = if subprotocol == Subprotocol::GraphqlTransportWs { "subscribe" } else { "start" };
    format!(r#"{{"type":"{kind}","id":"{id}","payload":{{"query":"{{me{{id}}}}"}}}}"#)
}

pub(super) fn complete(subprotocol: Subprotocol, id: &str) -> String {
    let kind = if subprotocol == Subprotocol::GraphqlTransportWs { "complete" } else { "stop" };
    format!(r#"{{"type":"{kind}","id":"{id}"}}"#)
}

/// State machine with its own clock.
pub(super) struct Socket {
    pub(super) subprotocol: Subprotocol,
    pub(super) protocol: Protocol,
    pub(super) now: Instant,
    opened_at: Instant,
}

impl Socket {
    pub(super) fn new(subprotocol: Subprotocol) -> Self {
        let now = Instant::now();
        Self { subprotocol, protocol: Protocol::new(subprotocol, now), now, opened_at: now }
    }

    pub(super) fn open(subprotocol: Subprotocol) -> Self {
        Self::open_until(subprotocol, None)
    }

    pub(super) fn open_until(subprotocol: Subprotocol, expires_in_s: Option<u64>) -> Self {
        let mut socket = Self::new(subprotocol);
        assert!(matches!(socket.text(INIT)[..], [Action::Authenticate(None)]));
        let expires_at = expires_in_s.map(|seconds| socket.now + Duration::from_secs(seconds));
        let actions = socket.handle(Input::Authenticated(Ok(expires_at)));
        assert!(matches!(actions[..], [Action::Send(Outgoing::Ack)]));
        socket
    }

    /// Sends an operation and returns the actions, whatever they are.
    fn subscribe(&mut self, id: &str) -> Vec<Action> {
        self.text(&subscribe(self.subprotocol, id))
    }

    fn complete(&mut self, id: &str) -> Vec<Action> {
        self.text(&complete(self.subprotocol, id))
    }

    /// Returns the text of the only action, a message.
    fn sent(&self, actions: &[Action]) -> String {
        match actions {
            [Action::Send(outgoing)] => {
                outgoing.text(self.subprotocol).expect("the subprotocol has this message")
            }
            other => panic!("expected one message: {other:?}"),
        }
    }

    pub(super) fn handle(&mut self, input: Input<'_>) -> Vec<Action> {
        self.protocol.handle(input, self.now)
    }

    pub(super) fn text(&mut self, text: &str) -> Vec<Action> {
        self.handle(Input::Text(text))
    }

    pub(super) fn start(&mut self, id: &str) -> Operation {
        match self.subscribe(id)[..] {
            [Action::Start(operation, _)] => operation,
            ref other => panic!("{other:?}"),
        }
    }

    /// Advances the clock from timer to timer. Returns the actions, each with the second of its timer.
    pub(super) fn wait(&mut self, duration_s: u64) -> Vec<(u64, Action)> {
        let end = self.now + Duration::from_secs(duration_s);
        let mut done = Vec::new();
        while let Some(deadline) = self.protocol.deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            let second = (self.now - self.opened_at).as_secs();
            done.extend(self.handle(Input::Timer).into_iter().map(|action| (second, action)));
            assert!(done.len() < 1000, "the timer is due again immediately");
        }
        self.now = end;
        done
    }
}

pub(super) fn closed(actions: &[Action]) -> u16 {
    match actions {
        [Action::Close(close)] => {
            assert!(close.reason().len() < 100);
            close.code
        }
        other => panic!("expected a close: {other:?}"),
    }
}

#[test]
fn without_connection_init_for_3_s_the_socket_closes_with_4408() {
    for subprotocol in Subprotocol::ALL {
        let mut socket = Socket::new(subprotocol);
        assert!(socket.wait(2).is_empty());
        let done = socket.wait(2);
        assert_eq!((done[0].0, closed(&[done.into_iter().next().expect("one").1])), (3, 4408));
    }
}

#[test]
fn a_rejected_client_receives_the_reason() {
    let init = r#"{"type":"connection_init","payload":{"authorization":"Bearer t"}}"#;
    for subprotocol in Subprotocol::ALL {
        for (rejection, code) in [
            (InitRejection::InvalidToken, 4403),
            (InitRejection::TooManySockets, 4429),
            (InitRejection::Unavailable, 1013),
        ] {
            let mut socket = Socket::new(subprotocol);
            let actions = socket.text(init);
            let [Action::Authenticate(Some(token))] = &actions[..] else { panic!("{actions:?}") };
            assert_eq!(token.expose(), "t");
            let actions = socket.handle(Input::Authenticated(Err(rejection)));
            let [Action::Send(error), close @ Action::Close(_)] = &actions[..] else { panic!("{actions:?}") };
            let error = error.text(subprotocol);
            assert_eq!(
                error.is_some(),
                subprotocol == Subprotocol::GraphqlWs,
                "graphql-transport-ws has only the close frame"
            );
            assert!(error.is_none_or(|text| text.starts_with(r#"{"payload":{"message":""#)
                && text.ends_with(r#""},"type":"connection_error"}"#)));
            assert_eq!(closed(std::slice::from_ref(close)), code);
        }
    }
}

#[test]
fn a_second_connection_init_closes_with_4429() {
    for subprotocol in Subprotocol::ALL {
        assert_eq!(closed(&Socket::open(subprotocol).text(INIT)), 4429);
        let mut early = Socket::new(subprotocol);
        early.text(INIT);
        assert_eq!(closed(&early.text(INIT)), 4429, "also before the first is acknowledged");
    }
}

#[test]
fn an_operation_before_the_ack_closes_with_4401() {
    for subprotocol in Subprotocol::ALL {
        assert_eq!(closed(&Socket::new(subprotocol).subscribe("1")), 4401);
        let mut early = Socket::new(subprotocol);
        early.text(INIT);
        assert_eq!(closed(&early.subscribe("1")), 4401);
        assert!(early.handle(Input::Authenticated(Ok(None))).is_empty(), "a late answer changes nothing");
    }
}

#[test]
fn frames_of_graphql_ws_are_not_read_before_the_ack() {
    for subprotocol in Subprotocol::ALL {
        let mut socket = Socket::new(subprotocol);
        assert!(socket.protocol.accepts_frames());
        socket.text(INIT);
        assert_eq!(socket.protocol.accepts_frames(), subprotocol == Subprotocol::GraphqlTransportWs);
        socket.handle(Input::Authenticated(Ok(None)));
        assert!(socket.protocol.accepts_frames());
        socket.start("1");
    }
}

#[test]
fn a_bad_message_closes_with_4400_in_every_phase() {
    for subprotocol in Subprotocol::ALL {
        let other = if subprotocol == Subprotocol::GraphqlTransportWs {
            Subprotocol::GraphqlWs
        } else {
            Subprotocol::GraphqlTransportWs
        };
        let bad = ["", "x", "[]", r#"{"type":"subscribe"}"#, r#"{"type":"start"}"#, r#"{"type":"data"}"#];
        for text in bad.map(str::to_owned).into_iter().chain([subscribe(other, "1"), complete(other, "1")]) {
            assert_eq!(closed(&Socket::new(subprotocol).text(&text)), 4400, "{text}");
            assert_eq!(closed(&Socket::open(subprotocol).text(&text)), 4400, "{text}");
        }
        assert_eq!(closed(&Socket::new(subprotocol).handle(Input::Binary)), 4400);
        assert_eq!(closed(&Socket::open(subprotocol).handle(Input::Binary)), 4400);
    }
}

#[test]
fn an_id_in_use_closes_with_4409() {
    for subprotocol in Subprotocol::ALL {
        for id in ["1".to_owned(), "é".repeat(128)] {
            let mut socket = Socket::open(subprotocol);
            socket.start(&id);
            assert_eq!(closed(&socket.subscribe(&id)), 4409);
        }
    }
}

#[test]
fn a_rejected_operation_is_an_error_and_its_id_can_be_reused() {
    for (subprotocol, payload) in [
        (Subprotocol::GraphqlTransportWs, r#"[{"message":"no"}]"#),
        (Subprotocol::GraphqlWs, r#"{"message":"no","errors":[{"message":"no"}]}"#),
    ] {
        let mut socket = Socket::open(subprotocol);
        let operation = socket.start("1");
        let actions = socket.handle(Input::Rejected(operation, r#"[{"message":"no"}]"#.into()));
        let message: serde_json::Value = serde_json::from_str(&socket.sent(&actions)).expect("JSON");
        let payload: serde_json::Value = serde_json::from_str(payload).expect("JSON");
        assert_eq!(message, serde_json::json!({ "id": "1", "type": "error", "payload": payload }));
        assert!(socket.handle(Input::Completed(operation)).is_empty(), "nothing follows an error");
        socket.start("1");
    }
}

#[test]
fn results_are_sent_and_complete_is_sent_once() {
    for (subprotocol, kind) in [(Subprotocol::GraphqlTransportWs, "next"), (Subprotocol::GraphqlWs, "data")] {
        let mut socket = Socket::open(subprotocol);
        let operation = socket.start("a");
        let next = socket.handle(Input::Next(operation, r#"{"data":{}}"#.into()));
        assert_eq!(socket.sent(&next), format!(r#"{{"id":"a","type":"{kind}","payload":{{"data":{{}}}}}}"#));
        let end = socket.handle(Input::Completed(operation));
        assert_eq!(socket.sent(&end), r#"{"id":"a","type":"complete"}"#);
        assert!(socket.handle(Input::Completed(operation)).is_empty());
        assert_eq!(socket.protocol.operation_count(), 0);
    }
}

#[test]
fn an_ended_id_receives_nothing_and_can_be_reused() {
    for subprotocol in Subprotocol::ALL {
        let mut socket = Socket::open(subprotocol);
        let first = socket.start("1");
        assert!(matches!(socket.complete("1")[..], [Action::Stop(it)] if it == first));
        assert!(socket.complete("1").is_empty(), "unknown ids are ignored");
        let second = socket.start("1");
        assert_ne!(first, second);
        for late in
            [Input::Next(first, "{}".into()), Input::Rejected(first, "[]".into()), Input::Completed(first)]
        {
            assert!(socket.handle(late).is_empty(), "late results do not belong to the new operation");
        }
        let end = socket.handle(Input::Completed(second));
        assert_eq!(socket.sent(&end), r#"{"id":"1","type":"complete"}"#);
    }
}

#[test]
fn a_ping_is_answered_by_a_pong_with_its_payload() {
    for (mut socket, ping, pong) in [
        (Socket::new(Subprotocol::GraphqlTransportWs), PING, r#"{"type":"pong"}"#),
        (Socket::open(Subprotocol::GraphqlTransportWs), PING, r#"{"type":"pong"}"#),
        (
            Socket::open(Subprotocol::GraphqlTransportWs),
            r#"{"type":"ping","payload":{"a":[1]}}"#,
            r#"{"type":"pong","payload":{"a":[1]}}"#,
        ),
    ] {
        let answer = socket.text(ping);
        assert_eq!(socket.sent(&answer), pong);
    }
}

#[test]
fn connection_terminate_closes_with_1000() {
    for mut socket in [Socket::new(Subprotocol::GraphqlWs), Socket::open(Subprotocol::GraphqlWs)] {
        assert_eq!(closed(&socket.text(r#"{"type":"connection_terminate"}"#)), 1000);
    }
}

#[test]
fn a_silent_client_is_pinged_every_20_s_and_closed_after_40_s() {
    let mut done = Socket::open(Subprotocol::GraphqlTransportWs).wait(100);
    let (second, close) = done.pop().expect("a close");
    assert_eq!((second, closed(&[close])), (40, 4408));
    assert!(matches!(done[..], [(20, Action::Send(Outgoing::Ping { expires_in_s: None }))]), "{done:?}");
}

#[test]
fn a_silent_client_of_graphql_ws_receives_ka_and_a_ping_every_10_s_and_is_closed_after_40_s() {
    let mut done = Socket::open(Subprotocol::GraphqlWs).wait(100);
    let (second, close) = done.pop().expect("a close");
    assert_eq!((second, closed(&[close])), (40, 4408));
    for (pair, second) in done.chunks(2).zip([10, 20, 30]) {
        let [(sent_at, Action::Send(sent)), (pinged_at, Action::Ping)] = pair else { panic!("{pair:?}") };
        assert_eq!((*sent_at, *pinged_at), (second, second));
        assert_eq!(sent.text(Subprotocol::GraphqlWs).as_deref(), Some(r#"{"type":"ka"}"#));
    }
    assert_eq!(done.len(), 6);
}

#[test]
fn a_client_that_sends_frames_stays_connected() {
    for (subprotocol, text) in [
        (Subprotocol::GraphqlTransportWs, r#"{"type":"pong"}"#),
        (Subprotocol::GraphqlTransportWs, PING),
        (Subprotocol::GraphqlWs, STOP),
    ] {
        for by_text in [true, false] {
            let mut socket = Socket::open_until(subprotocol, Some(100_000));
            let mut pings = 0;
            for _ in 0..30 {
                let done = socket.wait(20);
                assert!(!done.iter().any(|(_, it)| matches!(it, Action::Close(_))));
                pings += done.iter().filter(|(_, it)| matches!(it, Action::Send(_))).count();
                socket.handle(if by_text { Input::Text(text) } else { Input::Pong });
            }
            assert_eq!(pings, if subprotocol == Subprotocol::GraphqlTransportWs { 30 } else { 60 });
        }
    }
}

#[test]
fn a_frame_over_64_kb_closes_with_1009() {
    for subprotocol in Subprotocol::ALL {
        assert_eq!(closed(&Socket::open(subprotocol).text(&"x".repeat(FRAME_MAX + 1))), 1009);
        assert_eq!(closed(&Socket::open(subprotocol).handle(Input::TooLarge)), 1009);
    }
}

#[test]
fn the_51st_operation_is_rejected_and_the_socket_stays_open() {
    for (subprotocol, payload) in
        [(Subprotocol::GraphqlTransportWs, r#""payload":[{"#), (Subprotocol::GraphqlWs, r#""payload":{"#)]
    {
        let mut socket = Socket::open(subprotocol);
        for number in 0..OPERATIONS_MAX {
            socket.start(&number.to_string());
        }
        let rejected = socket.subscribe("more");
        let message = socket.sent(&rejected);
        assert!(message.starts_with(&format!(r#"{{"id":"more","type":"error",{payload}"#)), "{message}");
        assert!(message.contains("LIMIT_EXCEEDED"), "{message}");
        socket.complete("7");
        socket.start("more");
    }
}

#[test]
fn an_expiring_token_is_announced_30_s_before_and_closes_with_4403() {
    for subprotocol in Subprotocol::ALL {
        let mut socket = Socket::open_until(subprotocol, Some(100));
        let mut done = Vec::new();
        for _ in 0..20 {
            done.extend(socket.wait(10));
            socket.handle(Input::Pong);
        }
        let (second, close) = done.pop().expect("a close");
        assert_eq!((second, closed(&[close])), (100, 4403));
        let is_notice = |it: &Action| matches!(it, Action::Send(Outgoing::Ping { expires_in_s: Some(30) }));
        let notices: Vec<u64> =
            done.iter().filter(|(_, it)| is_notice(it)).map(|(second, _)| *second).collect();
        assert_eq!(notices, [70]);
    }
}

#[test]
fn a_token_about_to_expire_is_announced_immediately_and_an_expired_one_is_rejected() {
    for (subprotocol, kind) in [(Subprotocol::GraphqlTransportWs, "ping"), (Subprotocol::GraphqlWs, "ka")] {
        let mut socket = Socket::open_until(subprotocol, Some(5));
        let (_, notice) = socket.wait(4).into_iter().next().expect("a ping");
        assert_eq!(socket.sent(&[notice]), format!(r#"{{"type":"{kind}","payload":{{"expiresIn":5}}}}"#));
        let mut late = Socket::new(subprotocol);
        late.text(INIT);
        let now = late.now;
        assert_eq!(closed(&late.handle(Input::Authenticated(Ok(Some(now))))[1..]), 4403);
    }
}

#[test]
fn every_external_end_of_a_socket_has_its_code() {
    for subprotocol in Subprotocol::ALL {
        for (input, code) in
            [(Input::Revoked, 4401), (Input::Stalled, 1013), (Input::Restart, 1012), (Input::Malformed, 1002)]
        {
            let mut socket = Socket::open(subprotocol);
            let operation = socket.start("1");
            assert_eq!(closed(&socket.handle(input)), code);
            assert_eq!((socket.protocol.operation_count(), socket.protocol.deadline()), (0, None));
            assert!(socket.handle(Input::Next(operation, "{}".into())).is_empty());
            assert!(socket.text(INIT).is_empty(), "a closed socket ignores input");
        }
    }
}
