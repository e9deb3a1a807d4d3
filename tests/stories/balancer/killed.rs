//! Gateways killed in the middle, with live subscriptions and people who write: everybody goes on through the balancer.

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
    device::Device,
    kill::{SEND, View},
    oracle,
    person::Person,
    stack::Stack,
};

const MESSAGES: usize = 240;
const DEVICES: usize = 4;
/// How long a client tries again before it gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// What everybody who is at it counts together.
#[derive(Default)]
struct Tally {
    acknowledged: AtomicUsize,
    tried_again: AtomicUsize,
    reconnected: AtomicUsize,
    finished: AtomicBool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_killed_one_after_the_other_lose_no_request_and_no_frame() {
    let Some(mut stack) = Stack::start(&[]).await else { return };
    let Some(balancer) = Balancer::before(&stack).await else { return };
    let place = balancer.place(&stack.suffix);
    let (a, b) = (Person::register(&place, "ann").await, Person::register(&place, "bob").await);
    let reader = Person::register(&place, "cleo").await;
    let dialog = a.create_group(&[&b, &reader], "three of us").await;
    let tally = Arc::new(Tally::default());
    let devices: Vec<_> =
        (0..DEVICES).map(|_| tokio::spawn(watch(reader.clone(), Arc::clone(&tally)))).collect();
    let writers =
        [&a, &b].map(|writer| tokio::spawn(write(writer.clone(), dialog.clone(), Arc::clone(&tally))));

    let longest = kill_each_gateway(&mut stack, &balancer, &tally).await;

    let mut told: Vec<(i64, String)> = Vec::new();
    for writer in writers {
        told.extend(writer.await.unwrap());
    }
    told.sort_unstable();
    assert_eq!(told.len(), 2 * MESSAGES, "every request was answered in the end");
    eventually("every message is COMMITTED", || async {
        oracle::history(&reader, &dialog).await.iter().all(|message| message["status"] == "COMMITTED")
    })
    .await;
    let history = oracle::history(&reader, &dialog).await;
    let stored =
        history.iter().map(|message| (message["seq"].as_i64().unwrap(), message["id"].as_str().unwrap()));
    assert!(
        stored.eq(told.iter().map(|(seq, id)| (*seq, id.as_str()))),
        "what was acknowledged is there once"
    );
    assert!(told.iter().map(|(seq, _)| *seq).eq(1..=told.len() as i64), "seq has no gaps");
    oracle::unread_is_exact(&reader, &dialog, &history).await;
    tally.finished.store(true, Ordering::SeqCst);
    a.send(&dialog, "the last one").await;
    for device in devices {
        let view = device.await.unwrap();
        assert_eq!(view.total, told.len() as i64 + 1);
        assert_eq!(view.unread, BTreeMap::from([(dialog.clone(), view.total)]));
    }
    let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
    assert!(count(&tally.reconnected) >= DEVICES, "every device lost a gateway once at least");
    println!(
        "two gateways killed: {} messages acknowledged, {} requests tried again, {} reconnects, longest pause between \
         acknowledgements {longest:?}; no frame lost",
        count(&tally.acknowledged),
        count(&tally.tried_again),
        count(&tally.reconnected),
    );
}

/// Kills one gateway after a third of the messages and the other after two thirds, with the first one back. Returns the
/// longest time without an acknowledgement.
async fn kill_each_gateway(stack: &mut Stack, balancer: &Balancer, tally: &Tally) -> Duration {
    let mut longest = Duration::ZERO;
    for (number, gateway) in ["gateway1", "gateway2"].into_iter().enumerate() {
        longest = longest.max(until(tally, (number + 1) * 2 * MESSAGES / 3).await);
        stack.kill(gateway).await;
        balancer.knows(gateway, false).await;
        stack.start_role(gateway);
        stack.is_ready().await;
        balancer.knows(gateway, true).await;
    }
    longest.max(until(tally, 2 * MESSAGES).await)
}

/// Waits until so many messages are acknowledged; the longest time without one.
async fn until(tally: &Tally, messages: usize) -> Duration {
    let (mut longest, mut last) = (Duration::ZERO, (0, Instant::now()));
    loop {
        let now = tally.acknowledged.load(Ordering::SeqCst);
        longest = longest.max(last.1.elapsed());
        if now >= messages {
            return longest;
        }
        if now > last.0 {
            last = (now, Instant::now());
        }
        assert!(last.1.elapsed() < PATIENCE, "nothing is acknowledged any more");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Sends message after message, each until it is acknowledged, under one key.
async fn write(person: Person, dialog: String, tally: Arc<Tally>) -> Vec<(i64, String)> {
    let mut told = Vec::new();
    for number in 0..MESSAGES {
        let key = format!("{}-{number}", person.id);
        let input = json!({"dialogId": dialog, "text": format!("message {number}"), "clientKey": key});
        let begun = Instant::now();
        let message = loop {
            let answer = person.try_ask(SEND, json!({"input": input})).await.unwrap_or_default();
            if let Some(message) = answer["data"].get("sendMessage").filter(|message| message.is_object()) {
                break message.clone();
            }
            assert!(begun.elapsed() < PATIENCE, "given up: {answer}");
            tally.tried_again.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        told.push((message["seq"].as_i64().unwrap(), message["id"].as_str().unwrap().to_owned()));
        tally.acknowledged.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    told
}

/// A device that connects again where its socket ends, and goes on from the last version that it knows.
async fn watch(person: Person, tally: Arc<Tally>) -> View {
    let mut view = View::default();
    loop {
        let mut device = Device::watching(&person, view.version.as_deref()).await;
        while let Ok(mut message) = device.heard().await {
            assert_eq!((&message["type"], &message["id"]), (&json!("next"), &json!("u")), "{message}");
            let frame = message["payload"]["data"]["unread"].take();
            follows(&view, &frame);
            view.apply(&frame);
            if tally.finished.load(Ordering::SeqCst) && view.total == 2 * MESSAGES as i64 + 1 {
                return view;
            }
        }
        tally.reconnected.fetch_add(1, Ordering::SeqCst);
    }
}

/// A change follows the version that the device is at; CURRENT is that version; a snapshot replaces it.
fn follows(view: &View, frame: &Value) {
    let at = view.version.as_deref();
    match frame["kind"].as_str() {
        Some("SNAPSHOT") => {}
        Some("CHANGE") => assert_eq!(frame["previousVersion"].as_str(), at, "a frame is lost: {frame}"),
        Some("CURRENT") => assert_eq!(frame["version"].as_str(), at, "{frame}"),
        _ => panic!("no frame: {frame}"),
    }
}
