//! Gateways killed under load behind the balancer: every request is answered in the end, and no frame is
//! lost.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::eventually;

use super::Balancer;
use crate::{
    caller::Caller,
    kill::{SEND, View},
    oracle,
    socket_client::SocketClient,
    stack::Stack,
};

const MESSAGES: usize = 240;
const SOCKETS: usize = 4;
/// Maximum time that a client retries one request.
const RETRY_MAX: Duration = Duration::from_secs(20);

/// Counters of all clients together.
#[derive(Default)]
struct Tally {
    acknowledged: AtomicUsize,
    retried: AtomicUsize,
    reconnected: AtomicUsize,
    finished: AtomicBool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_gateways_lose_no_request_and_no_frame() {
    let Some(mut stack) = Stack::start(&[]).await else { return };
    let Some(balancer) = Balancer::in_front_of(&stack).await else { return };
    let endpoint = balancer.endpoint(&stack.login_suffix);
    let a = Caller::register(&endpoint, "ann").await;
    let b = Caller::register(&endpoint, "bob").await;
    let reader = Caller::register(&endpoint, "cleo").await;
    let dialog = a.create_group(&[&b, &reader], "three of us").await;
    let tally = Arc::new(Tally::default());
    let sockets: Vec<_> =
        (0..SOCKETS).map(|_| tokio::spawn(watch(reader.clone(), Arc::clone(&tally)))).collect();
    let writers =
        [&a, &b].map(|writer| tokio::spawn(write(writer.clone(), dialog.clone(), Arc::clone(&tally))));

    let longest = kill_each_gateway(&mut stack, &balancer, &tally).await;

    let mut acknowledged: Vec<(i64, String)> = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    acknowledged.sort_unstable();
    assert_eq!(acknowledged.len(), 2 * MESSAGES, "every request was acknowledged in the end");
    eventually("every message is COMMITTED", || async {
        oracle::history(&reader, &dialog).await.iter().all(|message| message["status"] == "COMMITTED")
    })
    .await;
    let history = oracle::history(&reader, &dialog).await;
    let stored =
        history.iter().map(|message| (message["seq"].as_i64().unwrap(), message["id"].as_str().unwrap()));
    assert!(
        stored.eq(acknowledged.iter().map(|(seq, id)| (*seq, id.as_str()))),
        "acknowledged messages are stored exactly once"
    );
    assert!(acknowledged.iter().map(|(seq, _)| *seq).eq(1..=acknowledged.len() as i64), "seq has no gaps");
    oracle::assert_unread_is_exact(&reader, &dialog, &history).await;
    tally.finished.store(true, Ordering::SeqCst);
    a.send(&dialog, "the last one").await;
    for socket in sockets {
        let view = socket.await.unwrap();
        assert_eq!(view.total, acknowledged.len() as i64 + 1);
        assert_eq!(view.unread, BTreeMap::from([(dialog.clone(), view.total)]));
    }
    let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
    assert!(count(&tally.reconnected) >= SOCKETS, "every client lost a gateway at least once");
    println!(
        "two gateways killed: {} messages acknowledged, {} requests retried, {} reconnects, longest pause \
         between acknowledgements {longest:?}; no frame lost",
        count(&tally.acknowledged),
        count(&tally.retried),
        count(&tally.reconnected),
    );
}

/// Kills one gateway after a third of the messages and the other after two thirds, when the first is
/// ready again. Returns the longest time without an acknowledgement.
async fn kill_each_gateway(stack: &mut Stack, balancer: &Balancer, tally: &Tally) -> Duration {
    let mut longest = Duration::ZERO;
    for (number, gateway) in ["gateway1", "gateway2"].into_iter().enumerate() {
        longest = longest.max(wait_for_acknowledged(tally, (number + 1) * 2 * MESSAGES / 3).await);
        stack.kill(gateway).await;
        balancer.wait_for_state(gateway, false).await;
        stack.start_role(gateway);
        stack.wait_until_ready().await;
        balancer.wait_for_state(gateway, true).await;
    }
    longest.max(wait_for_acknowledged(tally, 2 * MESSAGES).await)
}

/// Waits until this many messages are acknowledged. Returns the longest time without an acknowledgement.
async fn wait_for_acknowledged(tally: &Tally, messages: usize) -> Duration {
    let mut longest = Duration::ZERO;
    let mut last = (0, Instant::now());
    loop {
        let now = tally.acknowledged.load(Ordering::SeqCst);
        longest = longest.max(last.1.elapsed());
        if now >= messages {
            return longest;
        }
        if now > last.0 {
            last = (now, Instant::now());
        }
        assert!(last.1.elapsed() < RETRY_MAX, "no message is acknowledged any more");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Sends messages one after the other, each with one client key until it is acknowledged. Returns their
/// seq and id.
async fn write(caller: Caller, dialog: String, tally: Arc<Tally>) -> Vec<(i64, String)> {
    let mut acknowledged = Vec::new();
    for number in 0..MESSAGES {
        let key = format!("{}-{number}", caller.id);
        let input = json!({"dialogId": dialog, "text": format!("message {number}"), "clientKey": key});
        let started = Instant::now();
        let message = loop {
            let answer = caller.try_execute(SEND, json!({"input": input})).await.unwrap_or_default();
            if let Some(message) = answer["data"].get("sendMessage").filter(|message| message.is_object()) {
                break message.clone();
            }
            assert!(started.elapsed() < RETRY_MAX, "retried for too long: {answer}");
            tally.retried.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        acknowledged.push((message["seq"].as_i64().unwrap(), message["id"].as_str().unwrap().to_owned()));
        tally.acknowledged.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    acknowledged
}

/// Keeps a view of the counters and reconnects from its last version whenever the socket ends.
async fn watch(caller: Caller, tally: Arc<Tally>) -> View {
    let mut view = View::default();
    loop {
        let mut socket = SocketClient::watch_unread(&caller, view.version.as_deref()).await;
        while let Ok(mut message) = socket.receive_or_close().await {
            assert_eq!((&message["type"], &message["id"]), (&json!("next"), &json!("u")), "{message}");
            let frame = message["payload"]["data"]["unread"].take();
            assert_follows(&view, &frame);
            view.apply(&frame);
            if tally.finished.load(Ordering::SeqCst) && view.total == 2 * MESSAGES as i64 + 1 {
                return view;
            }
        }
        tally.reconnected.fetch_add(1, Ordering::SeqCst);
    }
}

/// Asserts that a frame continues the view: CHANGE starts at its version, CURRENT has it, SNAPSHOT
/// replaces it.
fn assert_follows(view: &View, frame: &Value) {
    let at = view.version.as_deref();
    match frame["kind"].as_str() {
        Some("SNAPSHOT") => {}
        Some("CHANGE") => assert_eq!(frame["previousVersion"].as_str(), at, "a frame is lost: {frame}"),
        Some("CURRENT") => assert_eq!(frame["version"].as_str(), at, "{frame}"),
        _ => panic!("unknown kind: {frame}"),
    }
}
