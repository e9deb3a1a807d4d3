//! Tests of what a client can do without a message: pings, pongs and fragments; against the state machine and
//! real sockets.

use futures_util::SinkExt;
use proto::UserId;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use super::{
    protocol::{Action, Input},
    protocol_tests::{Socket, closed},
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
