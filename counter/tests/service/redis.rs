//! The counter with its cache in a Redis of the test's own, which is flushed, frozen, filled up, killed and brought back
//! with what it held on another day.

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

use crate::{talk::Talk, world::World};

async fn connect(server: &RedisServer) -> MultiplexedConnection {
    let client = Client::open(server.url()).expect("it is a URL");
    client.get_multiplexed_async_connection().await.expect("Redis is there")
}

async fn tell(server: &RedisServer, words: &[&str]) {
    let mut command = cmd(words[0]);
    command.arg(&words[1..]);
    command.exec_async(&mut connect(server).await).await.expect("Redis does it");
}

/// What Redis holds of a user: version and total.
async fn held(server: &RedisServer, user_id: UserId) -> Option<(String, i64)> {
    let hash = Cmd::hgetall(format!("tidings:unread:{user_id}"));
    let fields: HashMap<String, String> =
        hash.query_async(&mut connect(server).await).await.expect("Redis answers");
    let version = fields.get("version")?.clone();
    let unread = |row: &String| row.split(' ').nth(1).map_or(0, |unread| unread.parse().expect("a number"));
    Some((version, fields.values().map(unread).sum()))
}

async fn send(world: &World, talk: &mut Talk, sender: UserId, messages: usize) {
    let sent = (0..messages).map(|_| Kind::MessageSent(talk.message(sender))).collect();
    world.emit(topic::DIALOG, sent).await;
}

/// How often somebody has connected.
async fn connections(server: &RedisServer) -> u128 {
    let stats: String =
        cmd("INFO").arg("stats").query_async(&mut connect(server).await).await.expect("Redis answers");
    let count = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    count.expect("it is among the statistics").trim().parse().expect("a number")
}

/// A message by the first is unread by the second, and Redis knows it.
async fn holding_one(server: &RedisServer) -> (World, Talk, [UserId; 2]) {
    let world = World::cached_at(&server.url()).await;
    let [ada, bob] = [(); 2].map(|()| UserId::now());
    let mut talk = Talk::begin(&world, &[ada, bob]).await;
    send(&world, &mut talk, ada, 1).await;
    world.unread_is(bob, 1).await;
    holds_when_read(server, &world, bob, 1).await;
    (world, talk, [ada, bob])
}

async fn holds_when_read(server: &RedisServer, world: &World, user_id: UserId, total: i64) {
    eventually("Redis holds what was read", || async {
        world.unread(user_id, None).await.expect("an answer");
        held(server, user_id).await.is_some_and(|(_, held)| held == total)
    })
    .await;
}

fn version(reply: &UnreadReply) -> String {
    let version = reply.version.expect("every answer has one");
    format!("{}-{}", version.epoch, version.number)
}

#[tokio::test]
async fn a_redis_that_is_away_at_the_start_is_used_when_it_comes() {
    let Some(mut server) = RedisServer::start() else { return };
    server.kill();
    let world = World::cached_at(&server.url()).await;
    let (ada, bob) = (UserId::now(), UserId::now());
    let mut talk = Talk::begin(&world, &[ada, bob]).await;
    send(&world, &mut talk, ada, 2).await;
    world.unread_is(bob, 2).await;
    server.start_again();
    holds_when_read(&server, &world, bob, 2).await;
    send(&world, &mut talk, ada, 3).await;
    eventually("the writer keeps it up to date", || async {
        held(&server, bob).await.is_some_and(|(_, total)| total == 5)
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn while_redis_is_frozen_reads_are_quick_and_right_and_the_writer_keeps_its_place() {
    const READS: u32 = 200;
    let Some(server) = RedisServer::start() else { return };
    let (world, mut talk, [ada, bob]) = holding_one(&server).await;
    let before = connections(&server).await;
    server.freeze();
    let begun = Instant::now();
    send(&world, &mut talk, ada, 3).await;
    world.unread_is(bob, 4).await;
    for _ in 0..READS {
        assert_eq!(world.unread(bob, None).await.unwrap().total, 4);
    }
    let took = begun.elapsed();
    server.thaw();
    // Whoever waits in vain gives its connection up: that many have waited. One request does in 500 ms, and the writer.
    let waited = connections(&server).await - before;
    println!("{READS} reads while Redis is frozen: {took:?}, {waited} waits");
    assert!(waited <= 5 + 2 * took.as_millis() / 500, "{waited} waited for Redis in {took:?}");
    // Nobody reads: what is held now, the writer has brought up to date from where it was.
    eventually("the writer has gone on", || async {
        held(&server, bob).await.is_some_and(|(_, total)| total == 4)
    })
    .await;
    assert_eq!(held(&server, bob).await.unwrap().0, version(&world.unread(bob, None).await.unwrap()));
    world.stop().await;
}

#[tokio::test]
async fn a_redis_that_comes_back_with_an_older_day_is_never_wrong_at_a_version() {
    let Some(mut server) = RedisServer::start() else { return };
    let (world, mut talk, [ada, bob]) = holding_one(&server).await;
    tell(&server, &["SAVE"]).await;
    send(&world, &mut talk, ada, 2).await;
    world.unread_is(bob, 3).await;
    eventually("the writer has gone on", || async {
        held(&server, bob).await.is_some_and(|(_, total)| total == 3)
    })
    .await;
    let newest = world.unread(bob, None).await.unwrap();
    server.kill();
    server.start_again();
    assert_eq!(held(&server, bob).await.unwrap().1, 1, "it is that day again");
    let old = world.unread(bob, None).await.unwrap();
    let expected = if version(&old) == version(&newest) { 3 } else { 1 };
    assert_eq!(old.total, expected, "at {}", version(&old));
    assert_eq!(world.unread(bob, newest.version).await.unwrap(), newest, "who knows better gets better");
    send(&world, &mut talk, ada, 1).await;
    world.unread_is(bob, 4).await;
    world.stop().await;
}

/// The states of users by version, as the log tells them: dialog, unread, pointer.
type Rows = BTreeMap<Vec<u8>, (i64, i64)>;
type States = BTreeMap<(Vec<u8>, i64), Rows>;

fn note(states: &mut States, event: UnreadChanged) {
    let mut rows = states.get(&(event.user_id.clone(), event.previous)).cloned().unwrap_or_default();
    for row in event.rows {
        rows.insert(row.dialog_id, (row.unread, row.read_seq));
    }
    states.insert((event.user_id, event.version), rows);
}

fn is_right(states: &States, user_id: UserId, reply: &UnreadReply) -> bool {
    let number = reply.version.expect("every answer has one").number;
    let rows = states.get(&(user_id.bytes(), number)).cloned().unwrap_or_default();
    let expected: Rows = rows.into_iter().filter(|(_, (unread, _))| *unread > 0).collect();
    let answered: Rows =
        reply.rows.iter().map(|row| (row.dialog_id.clone(), (row.unread, row.read_seq))).collect();
    answered == expected && reply.total == expected.values().map(|(unread, _)| unread).sum::<i64>()
}

/// Everything that can become of a Redis.
async fn torment(server: &mut RedisServer) {
    for _ in 0..3 {
        for words in [&["FLUSHALL"][..], &["CONFIG", "SET", "maxmemory", "1"]] {
            tell(server, words).await;
            sleep(Duration::from_millis(300)).await;
        }
        tell(server, &["CONFIG", "SET", "maxmemory", "0"]).await;
        tell(server, &["SCRIPT", "FLUSH"]).await;
        sleep(Duration::from_millis(700)).await;
        tell(server, &["SAVE"]).await;
        server.freeze();
        sleep(Duration::from_millis(300)).await;
        server.thaw();
        sleep(Duration::from_millis(700)).await;
        server.kill();
        sleep(Duration::from_millis(100)).await;
        server.start_again();
        sleep(Duration::from_millis(700)).await;
    }
}

#[tokio::test]
async fn what_is_answered_at_a_version_is_what_was_true_then_whatever_becomes_of_redis() {
    let Some(mut server) = RedisServer::start() else { return };
    let world = World::cached_at(&server.url()).await;
    let mut told = world.tail(&[topic::UNREAD]).await;
    let people = [(); 4].map(|()| UserId::now());
    let done = Cell::new(false);
    let answers = RefCell::new(Vec::new());
    let writes = async {
        let mut talks = Vec::new();
        for _ in 0..3 {
            talks.push(Talk::begin(&world, &people).await);
        }
        for n in 0.. {
            let (talk, sender) = (&mut talks[n % 3], people[n % 4]);
            send(&world, talk, sender, 1 + n % 2).await;
            if n % 5 == 0 {
                world.read(people[(n + 1) % 4], talk.id, (n / 3) as i64).await.unwrap();
            }
            sleep(Duration::from_millis(2)).await;
            if done.get() {
                break;
            }
        }
    };
    let reads = join_all((0..6).map(|n| {
        let (world, done, answers) = (&world, &done, &answers);
        async move {
            let user_id = people[n % 4];
            let mut known = None;
            while !done.get() {
                let reply = world.unread(user_id, known).await.unwrap();
                let number = |version: Option<proto::counter::Version>| version.map(|version| version.number);
                assert!(number(reply.version) >= number(known), "never older than what is asked for");
                known = (n % 2 == 0).then_some(reply.version).flatten();
                answers.borrow_mut().push((user_id, reply));
            }
        }
    }));
    let trouble = async {
        torment(&mut server).await;
        done.set(true);
    };
    Box::pin(async { tokio::join!(writes, reads, trouble) }).await;

    let of = people.map(|user_id| SnapshotOf { user_id: user_id.bytes(), since: None }).to_vec();
    let mut newest =
        world.client(&world.service_token()).snapshots(SnapshotsRequest { of }).await.unwrap().into_inner();
    let mut states = States::new();
    while let Some(snapshot) = newest.snapshots.last() {
        if states.contains_key(&(snapshot.user_id.clone(), snapshot.version.unwrap().number)) {
            newest.snapshots.pop();
            continue;
        }
        for record in told.next().await.unwrap().records {
            if let Some(Kind::UnreadChanged(event)) = Kind::read(&record.payload) {
                note(&mut states, event);
            }
        }
    }
    for (user_id, reply) in answers.borrow().iter() {
        assert!(is_right(&states, *user_id, reply), "{user_id} was told {reply:?}");
    }
    println!("{} answers at {} versions, all right", answers.borrow().len(), states.len());
    world.stop().await;
}

#[tokio::test]
async fn how_long_a_read_takes() {
    const READS: usize = 1_000;
    let Some(server) = RedisServer::start() else { return };
    let world = World::cached_at(&server.url()).await;
    let (ada, bob) = (UserId::now(), UserId::now());
    for _ in 0..20 {
        let mut talk = Talk::begin(&world, &[ada, bob]).await;
        send(&world, &mut talk, ada, 2).await;
    }
    world.unread_is(bob, 40).await;
    let measure = async |what: &str, away: bool, flush: bool| {
        let mut took = Vec::new();
        for _ in 0..READS {
            if flush {
                tell(&server, &["FLUSHALL"]).await;
            }
            let begun = Instant::now();
            assert_eq!(world.unread(bob, None).await.unwrap().total, 40);
            took.push(begun.elapsed());
        }
        took.sort_unstable();
        let at = |percent: usize| took[READS * percent / 100 - 1];
        println!("a read of 20 rows, {what}: p50 {:?}, p99 {:?}", at(50), at(99));
        assert_eq!(away, held_where_it_runs(&server, away, bob).await.is_none());
    };
    measure("a miss", false, true).await;
    measure("a hit", false, false).await;
    server.freeze();
    measure("Redis frozen", true, false).await;
    server.thaw();
    world.stop().await;
}

async fn held_where_it_runs(server: &RedisServer, away: bool, user_id: UserId) -> Option<(String, i64)> {
    if away { None } else { held(server, user_id).await }
}
