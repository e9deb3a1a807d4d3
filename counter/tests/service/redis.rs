//! The counter with its cache in Redis: a server of the test, which is flushed, frozen, filled, killed,
//! and restored from an older snapshot.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use ::redis::{Client, Cmd, aio::MultiplexedConnection, cmd};
use futures_util::future::join_all;
use proto::{
    UserId,
    counter::{SnapshotOf, SnapshotsRequest, UnreadReply},
    events::{UnreadChanged, event::Kind},
    topic,
};
use testkit::{RedisServer, eventually};
use tokio::time::sleep;

use crate::{app::TestApp, dialog::SimulatedDialog};

async fn connect(server: &RedisServer) -> MultiplexedConnection {
    let client = Client::open(server.url()).expect("the URL is valid");
    client.get_multiplexed_async_connection().await.expect("Redis accepts the connection")
}

async fn execute(server: &RedisServer, words: &[&str]) {
    let mut command = cmd(words[0]);
    command.arg(&words[1..]);
    command.exec_async(&mut connect(server).await).await.expect("Redis executes the command");
}

/// Returns version and total of a user's entry in Redis.
async fn cached(server: &RedisServer, user_id: UserId) -> Option<(String, i64)> {
    let hash = Cmd::hgetall(format!("tidings:unread:{user_id}"));
    let fields: HashMap<String, String> =
        hash.query_async(&mut connect(server).await).await.expect("Redis answers");
    let version = fields.get("version")?.clone();
    let unread = |row: &String| row.split(' ').nth(1).map_or(0, |unread| unread.parse().expect("a number"));
    Some((version, fields.values().map(unread).sum()))
}

async fn send(app: &TestApp, dialog: &mut SimulatedDialog, sender: UserId, messages: usize) {
    let sent = (0..messages).map(|_| Kind::MessageSent(dialog.message(sender))).collect();
    app.publish(topic::DIALOG, sent).await;
}

/// Returns the number of connections that Redis has accepted.
async fn connections(server: &RedisServer) -> u128 {
    let stats: String =
        cmd("INFO").arg("stats").query_async(&mut connect(server).await).await.expect("Redis answers");
    let count = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    count.expect("the statistics have the counter").trim().parse().expect("a number")
}

/// Starts a counter and two users; the second has one unread message, which Redis has cached.
async fn with_one_cached(server: &RedisServer) -> (TestApp, SimulatedDialog, [UserId; 2]) {
    let app = TestApp::with_redis(&server.url()).await;
    let [ada, bob] = [(); 2].map(|()| UserId::now());
    let mut dialog = SimulatedDialog::create(&app, &[ada, bob]).await;
    send(&app, &mut dialog, ada, 1).await;
    app.wait_for_total(bob, 1).await;
    read_until_cached(server, &app, bob, 1).await;
    (app, dialog, [ada, bob])
}

async fn read_until_cached(server: &RedisServer, app: &TestApp, user_id: UserId, total: i64) {
    eventually("Redis has cached the read", || async {
        app.unread(user_id, None).await.expect("the counter answers");
        cached(server, user_id).await.is_some_and(|(_, cached)| cached == total)
    })
    .await;
}

fn version(reply: &UnreadReply) -> String {
    let version = reply.version.expect("every answer has a version");
    format!("{}-{}", version.epoch, version.number)
}

#[tokio::test]
async fn a_redis_that_is_unavailable_at_the_start_is_used_later() {
    let Some(mut server) = RedisServer::start() else { return };
    server.kill();
    let app = TestApp::with_redis(&server.url()).await;
    let ada = UserId::now();
    let bob = UserId::now();
    let mut dialog = SimulatedDialog::create(&app, &[ada, bob]).await;
    send(&app, &mut dialog, ada, 2).await;
    app.wait_for_total(bob, 2).await;
    server.restart();
    read_until_cached(&server, &app, bob, 2).await;
    send(&app, &mut dialog, ada, 3).await;
    eventually("the writer updates the entry", || async {
        cached(&server, bob).await.is_some_and(|(_, total)| total == 5)
    })
    .await;
    app.shut_down().await;
}

#[tokio::test]
async fn while_redis_is_frozen_reads_are_fast_and_the_writer_keeps_its_offset() {
    const READS: u32 = 200;
    let Some(server) = RedisServer::start() else { return };
    let (app, mut dialog, [ada, bob]) = with_one_cached(&server).await;
    let before = connections(&server).await;
    server.pause();
    let start = Instant::now();
    send(&app, &mut dialog, ada, 3).await;
    app.wait_for_total(bob, 4).await;
    for _ in 0..READS {
        assert_eq!(app.unread(bob, None).await.unwrap().total, 4);
    }
    let took = start.elapsed();
    server.resume();
    // A call that times out gives up its connection, so new connections count the calls that waited: one
    // request in 500 ms, because of the circuit breaker, and the writer.
    let waited = connections(&server).await - before;
    println!("{READS} reads while Redis is frozen: {took:?}, {waited} waits");
    assert!(waited <= 5 + 2 * took.as_millis() / 500, "{waited} calls waited for Redis in {took:?}");
    // No request reads now, so only the writer can have updated the entry, from its former offset.
    eventually("the writer continues", || async {
        cached(&server, bob).await.is_some_and(|(_, total)| total == 4)
    })
    .await;
    assert_eq!(cached(&server, bob).await.unwrap().0, version(&app.unread(bob, None).await.unwrap()));
    app.shut_down().await;
}

#[tokio::test]
async fn a_redis_restored_from_an_older_snapshot_never_has_wrong_rows_at_a_version() {
    let Some(mut server) = RedisServer::start() else { return };
    let (app, mut dialog, [ada, bob]) = with_one_cached(&server).await;
    execute(&server, &["SAVE"]).await;
    send(&app, &mut dialog, ada, 2).await;
    app.wait_for_total(bob, 3).await;
    eventually("the writer continues", || async {
        cached(&server, bob).await.is_some_and(|(_, total)| total == 3)
    })
    .await;
    let newest = app.unread(bob, None).await.unwrap();
    server.kill();
    server.restart();
    assert_eq!(cached(&server, bob).await.unwrap().1, 1, "Redis has the older snapshot");
    let old = app.unread(bob, None).await.unwrap();
    let expected = if version(&old) == version(&newest) { 3 } else { 1 };
    assert_eq!(old.total, expected, "at {}", version(&old));
    assert_eq!(
        app.unread(bob, newest.version).await.unwrap(),
        newest,
        "a client that knows a newer version gets it"
    );
    send(&app, &mut dialog, ada, 1).await;
    app.wait_for_total(bob, 4).await;
    app.shut_down().await;
}

/// Rows of a user by dialog: unread and read pointer.
type Rows = BTreeMap<Vec<u8>, (i64, i64)>;
/// Rows by user and version, computed from the events of the log.
type States = BTreeMap<(Vec<u8>, i64), Rows>;

fn add_state(states: &mut States, event: UnreadChanged) {
    let mut rows = states.get(&(event.user_id.clone(), event.previous)).cloned().unwrap_or_default();
    for row in event.rows {
        rows.insert(row.dialog_id, (row.unread, row.read_seq));
    }
    states.insert((event.user_id, event.version), rows);
}

fn is_correct(states: &States, user_id: UserId, reply: &UnreadReply) -> bool {
    let number = reply.version.expect("every answer has a version").number;
    let rows = states.get(&(user_id.bytes(), number)).cloned().unwrap_or_default();
    let expected: Rows = rows.into_iter().filter(|(_, (unread, _))| *unread > 0).collect();
    let answered: Rows =
        reply.rows.iter().map(|row| (row.dialog_id.clone(), (row.unread, row.read_seq))).collect();
    answered == expected && reply.total == expected.values().map(|(unread, _)| unread).sum::<i64>()
}

/// Runs every kind of failure of a Redis three times.
async fn disrupt(server: &mut RedisServer) {
    for _ in 0..3 {
        for words in [&["FLUSHALL"][..], &["CONFIG", "SET", "maxmemory", "1"]] {
            execute(server, words).await;
            sleep(Duration::from_millis(300)).await;
        }
        execute(server, &["CONFIG", "SET", "maxmemory", "0"]).await;
        execute(server, &["SCRIPT", "FLUSH"]).await;
        sleep(Duration::from_millis(700)).await;
        execute(server, &["SAVE"]).await;
        server.pause();
        sleep(Duration::from_millis(300)).await;
        server.resume();
        sleep(Duration::from_millis(700)).await;
        server.kill();
        sleep(Duration::from_millis(100)).await;
        server.restart();
        sleep(Duration::from_millis(700)).await;
    }
}

#[tokio::test]
async fn every_answer_is_correct_at_its_version_during_failures_of_redis() {
    let Some(mut server) = RedisServer::start() else { return };
    let app = TestApp::with_redis(&server.url()).await;
    let mut published = app.tail(&[topic::UNREAD]).await;
    let users = [(); 4].map(|()| UserId::now());
    let done = Cell::new(false);
    let answers = RefCell::new(Vec::new());
    let writes = async {
        let mut dialogs = Vec::new();
        for _ in 0..3 {
            dialogs.push(SimulatedDialog::create(&app, &users).await);
        }
        for n in 0.. {
            let dialog = &mut dialogs[n % 3];
            send(&app, dialog, users[n % 4], 1 + n % 2).await;
            if n % 5 == 0 {
                app.mark_read(users[(n + 1) % 4], dialog.id, (n / 3) as i64).await.unwrap();
            }
            sleep(Duration::from_millis(2)).await;
            if done.get() {
                break;
            }
        }
    };
    let reads = join_all((0..6).map(|n| {
        let app = &app;
        let done = &done;
        let answers = &answers;
        async move {
            let user_id = users[n % 4];
            let mut known = None;
            while !done.get() {
                let reply = app.unread(user_id, known).await.unwrap();
                let number = |version: Option<proto::counter::Version>| version.map(|version| version.number);
                assert!(number(reply.version) >= number(known), "never older than the requested version");
                known = (n % 2 == 0).then_some(reply.version).flatten();
                answers.borrow_mut().push((user_id, reply));
            }
        }
    }));
    let failures = async {
        disrupt(&mut server).await;
        done.set(true);
    };
    Box::pin(async { tokio::join!(writes, reads, failures) }).await;

    let of = users.map(|user_id| SnapshotOf { user_id: user_id.bytes(), since: None }).to_vec();
    let mut newest =
        app.client(&app.service_token()).snapshots(SnapshotsRequest { of }).await.unwrap().into_inner();
    let mut states = States::new();
    while let Some(snapshot) = newest.snapshots.last() {
        if states.contains_key(&(snapshot.user_id.clone(), snapshot.version.unwrap().number)) {
            newest.snapshots.pop();
            continue;
        }
        for record in published.next().await.unwrap().records {
            if let Some(Kind::UnreadChanged(event)) = Kind::decode(&record.payload) {
                add_state(&mut states, event);
            }
        }
    }
    for (user_id, reply) in answers.borrow().iter() {
        assert!(is_correct(&states, *user_id, reply), "wrong answer to {user_id}: {reply:?}");
    }
    println!("{} answers at {} versions, all correct", answers.borrow().len(), states.len());
    app.shut_down().await;
}

#[tokio::test]
async fn latency_of_a_read() {
    const READS: usize = 1_000;
    let Some(server) = RedisServer::start() else { return };
    let app = TestApp::with_redis(&server.url()).await;
    let ada = UserId::now();
    let bob = UserId::now();
    for _ in 0..20 {
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob]).await;
        send(&app, &mut dialog, ada, 2).await;
    }
    app.wait_for_total(bob, 40).await;
    let measure = async |case: &str, available: bool, flush: bool| {
        let mut took = Vec::new();
        for _ in 0..READS {
            if flush {
                execute(&server, &["FLUSHALL"]).await;
            }
            let start = Instant::now();
            assert_eq!(app.unread(bob, None).await.unwrap().total, 40);
            took.push(start.elapsed());
        }
        took.sort_unstable();
        let at = |percent: usize| took[READS * percent / 100 - 1];
        println!("a read of 20 rows, {case}: p50 {:?}, p99 {:?}", at(50), at(99));
        if available {
            assert!(cached(&server, bob).await.is_some());
        }
    };
    measure("a miss", true, true).await;
    measure("a hit", true, false).await;
    server.pause();
    measure("Redis frozen", false, false).await;
    server.resume();
    app.shut_down().await;
}
