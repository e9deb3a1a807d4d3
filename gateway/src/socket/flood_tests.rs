//! Tests of what a client can do without a message: pings, pongs and fragments, and sockets on which no user
//! signs in; against the state machine and real sockets.

use futures_util::SinkExt;
use proto::UserId;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use super::{
    protocol::{Action, Input},
    protocol_tests::{Socket, closed},
    renewal_tests::{StoppedClock, advance},
    subprotocol::Subprotocol,
};
use crate::testing::RunningGateway;

/// Messages that a client may send at once.
const BURST: usize = 100;
const PONG: &str = r#"{"type":"pong"}"#;

#[test]
fn pings_unasked_pongs_and_fragments_count_as_messages() {
    let inputs: [fn() -> Input<'static>; 4] =
        [|| Input::Ping, || Input::Pong, || Input::Fragments(1), || Input::Text(PONG)];
    for (number, input) in inputs.into_iter().enumerate() {
        let mut socket = Socket::open(Subprotocol::GraphqlTransportWs);
        for _ in 0..BURST {
            assert!(socket.handle(input()).is_empty());
        }
        assert_eq!(closed(&socket.handle(input())), 4429, "input {number}");
    }
    let mut socket = Socket::open(Subprotocol::GraphqlWs);
    assert!(socket.handle(Input::Fragments(BURST as u64)).is_empty());
    assert_eq!(closed(&socket.handle(Input::Fragments(u64::MAX))), 4429);
}

#[test]
fn one_pong_for_each_ping_is_not_counted() {
    for (subprotocol, interval_s, pong) in
        [(Subprotocol::GraphqlTransportWs, 20, Input::Text(PONG)), (Subprotocol::GraphqlWs, 10, Input::Pong)]
    {
        let is_frame = matches!(pong, Input::Pong);
        let answer = || if is_frame { Input::Pong } else { Input::Text(PONG) };
        let mut socket = Socket::open(subprotocol);
        assert!(!socket.wait(interval_s).is_empty(), "a ping");
        assert!(socket.handle(Input::Fragments(BURST as u64)).is_empty());
        assert!(socket.handle(answer()).is_empty(), "the answer to the ping");
        assert_eq!(closed(&socket.handle(answer())), 4429, "a second one");
    }
    // Unanswered pings are not saved up.
    let mut socket = Socket::open_until(Subprotocol::GraphqlTransportWs, Some(100_000));
    for _ in 0..50 {
        assert!(socket.wait(20).iter().all(|(_, action)| matches!(action, Action::Send(_))));
        socket.handle(Input::Ping);
    }
    assert!(socket.handle(Input::Fragments(BURST as u64 - 1)).is_empty());
    let free = (0..).take_while(|_| socket.handle(Input::Text(PONG)).is_empty()).count();
    assert_eq!(free, 4);
}

#[test]
fn an_anonymous_client_without_an_operation_for_60_s_is_closed_with_4408() {
    for subprotocol in Subprotocol::ALL {
        let alive = |socket: &mut Socket, seconds: u64| {
            let mut done = Vec::new();
            for _ in 0..seconds / 10 {
                done.extend(socket.wait(10));
                socket.handle(Input::Ping);
            }
            done.into_iter().find(|(_, action)| matches!(action, Action::Close(_)))
        };
        let mut idle = Socket::open(subprotocol);
        let (second, close) = alive(&mut idle, 100).expect("a close");
        assert_eq!((second, closed(&[close])), (60, 4408));
        let mut busy = Socket::open(subprotocol);
        let operation = busy.start("1");
        assert!(alive(&mut busy, 200).is_none(), "an operation runs");
        busy.handle(Input::Completed(operation));
        let (second, close) = alive(&mut busy, 100).expect("a close");
        assert_eq!((second, closed(&[close])), (260, 4408), "60 s after its end");
        let mut signed_in = Socket::open_until(subprotocol, Some(100_000));
        assert!(alive(&mut signed_in, 500).is_none());
    }
}

#[tokio::test]
async fn pings_pongs_and_empty_fragments_without_end_close_a_real_socket_with_4429() {
    let gateway = RunningGateway::start().await;
    for message in [Message::Ping("x".into()), Message::Pong("x".into())] {
        let mut client = gateway.sign_in(UserId::now()).await;
        for _ in 0..150 {
            client.socket.feed(message.clone()).await.expect("sent");
        }
        client.socket.flush().await.expect("sent");
        assert_eq!(client.closed().await.0, 4429, "{message:?}");
    }
    let mut client = gateway.sign_in(UserId::now()).await;
    // The first fragment of a text, then empty ones; each has a masking key of zeros.
    let mut bytes = vec![0x01, 0x80, 0, 0, 0, 0];
    bytes.extend([0x00, 0x80, 0, 0, 0, 0].repeat(150));
    client.socket.get_mut().write_all(&bytes).await.expect("sent");
    assert_eq!(client.closed().await.0, 4429, "fragments");
    gateway.stop().await;
}

#[tokio::test]
async fn a_message_in_fragments_is_read() {
    let gateway = RunningGateway::start().await;
    let mut client = gateway.sign_in(UserId::now()).await;
    let text = br#"{"type":"ping"}"#;
    let mut bytes = Vec::new();
    for (number, byte) in text.iter().enumerate() {
        let first = if number == 0 {
            0x01
        } else if number + 1 == text.len() {
            0x80
        } else {
            0x00
        };
        bytes.extend([first, 0x81, 0, 0, 0, 0, *byte]);
    }
    client.socket.get_mut().write_all(&bytes).await.expect("sent");
    assert_eq!(client.receive().await, json!({ "type": "pong" }));
    gateway.stop().await;
}

#[tokio::test]
async fn one_address_cannot_use_up_the_anonymous_sockets_of_all() {
    let gateway = RunningGateway::start().await;
    let stopped_clock = StoppedClock::stop();
    let mut waiting = Vec::new();
    let refused = loop {
        match gateway.connect_from("192.0.2.1").await {
            Ok(client) => waiting.push(client),
            Err(status) => break status,
        }
    };
    assert_eq!((waiting.len(), refused), (10, 429), "a tenth of 100");
    gateway.connect_from("192.0.2.2").await.expect("another address has its own share");
    drop(stopped_clock);
    drop(waiting);
    testkit::eventually("the permits are returned", || async {
        gateway.connect_from("192.0.2.1").await.is_ok()
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_idle_anonymous_socket_is_closed_and_returns_its_permit() {
    let gateway = RunningGateway::start().await;
    let mut client = gateway.connect().await;
    client.send(json!({ "type": "connection_init" })).await;
    assert_eq!(client.receive().await["type"], "connection_ack");
    for _ in 0..2 {
        advance(29).await;
        client.is_alive().await;
    }
    advance(3).await;
    let (code, reason) = client.closed().await;
    assert_eq!((code, reason.as_str()), (4408, "No user has signed in and no operation ran for 60 s"));
    gateway.stop().await;
}
