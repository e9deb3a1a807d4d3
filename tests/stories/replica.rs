//! The program with a streaming replica of the databases of auth and dialog: everyone sees what was
//! acknowledged, at any gateway, while the replica is late, away and back.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::{Replication, eventually};

use crate::{
    caller::Caller,
    oracle,
    stack::{Engines, Stack, databases},
};

const DIALOGS: &str = "{ dialogs(first: 10) { nodes { id title lastMessage { text } } } }";
const SEARCH: &str = "query($prefix: String!) { users(search: $prefix, first: 10) { nodes { id name } } }";
const RENAME: &str =
    "mutation($id: ID!, $title: String!) { renameDialog(dialogId: $id, title: $title) { id } }";
/// Services that read a replica.
const SERVICES: [&str; 2] = ["auth", "dialog"];

/// State of the replica for a part of the story.
#[derive(Debug, Clone, Copy)]
enum Replica {
    Follows,
    Late,
    Away,
}

#[tokio::test]
async fn what_is_acknowledged_is_read_at_any_gateway_whatever_the_replica_does() {
    let Some(engines) = Engines::fresh().await else { return };
    let Some(servers) = Replication::start() else { return };
    let on_primary = databases(&servers.primary.url("postgres")).await;
    let name = |role: &str| on_primary[role].rsplit_once('/').unwrap().1.to_owned();
    let on_replica: BTreeMap<_, _> =
        SERVICES.into_iter().map(|role| (role, servers.replica.url(&name(role)))).collect();
    let mut stack = Stack::start_on(engines, on_primary, &[]).await;
    for (role, url) in &on_replica {
        restart(&mut stack, role, url).await;
    }
    stack.wait_until_ready().await;

    let a = Caller::register(&stack, "ann").await;
    let b = Caller::register(&stack, "bob").await.at(&stack.second_gateway());
    let dialog = a.create_group(&[&b], "0").await;
    let mut sent = 0;
    for state in [Replica::Follows, Replica::Late, Replica::Follows, Replica::Away, Replica::Follows] {
        bring(&servers, state).await;
        let before = reads(&stack, "replica").await;
        for _ in 0..20 {
            sent += 1;
            talk(&a, &b, &dialog, sent).await;
        }
        find_a_new_user(&stack, &a, sent).await;
        if matches!(state, Replica::Follows) {
            eventually("the replica of each service is read again", || async {
                a.data(DIALOGS, json!({})).await;
                a.data(SEARCH, json!({"prefix": "an"})).await;
                let now = reads(&stack, "replica").await;
                SERVICES.iter().all(|role| now[role] > before[role])
            })
            .await;
        }
        println!(
            "{state:?}: {:?} reads on the replica, {:?} on the primary",
            reads(&stack, "replica").await,
            reads(&stack, "primary").await
        );
    }
    assert_eq!(oracle::history(&b, &dialog).await.len(), sent);
    a_database_of_another_service_is_refused(&mut stack, &on_replica["auth"]).await;
}

/// Sends and renames at one gateway, and reads at the other.
async fn talk(a: &Caller, b: &Caller, dialog: &str, number: usize) {
    let text = format!("message {number}");
    let id = a.send(dialog, &text).await["id"].clone();
    let history = oracle::history(b, dialog).await;
    assert_eq!((history.len(), &history[number - 1]["id"]), (number, &id));
    assert_eq!(b.data(DIALOGS, json!({})).await["dialogs"]["nodes"][0]["lastMessage"]["text"], text.as_str());
    b.data(RENAME, json!({"id": dialog, "title": number.to_string()})).await;
    let list = a.data(DIALOGS, json!({})).await;
    assert_eq!(list["dialogs"]["nodes"][0]["title"], number.to_string());
}

async fn find_a_new_user(stack: &Stack, a: &Caller, number: usize) {
    let login = format!("new{number}");
    let new = Caller::register(&stack.second_gateway(), &login).await;
    let found = a.data(SEARCH, json!({"prefix": login})).await;
    assert_eq!(found["users"]["nodes"][0]["id"], Value::from(new.id), "{found}");
}

async fn bring(servers: &Replication, state: Replica) {
    match state {
        Replica::Follows => {
            servers.replica.start();
            servers.replica.execute("select pg_wal_replay_resume()").await;
        }
        Replica::Late => servers.replica.execute("select pg_wal_replay_pause()").await,
        Replica::Away => servers.replica.kill(),
    }
}

/// Returns the reads that a server has answered, by service.
async fn reads(stack: &Stack, source: &str) -> BTreeMap<&'static str, f64> {
    let name = format!("database_reads_total{{source=\"{source}\"}}");
    let mut reads = BTreeMap::new();
    for role in SERVICES {
        reads.insert(role, stack.metric(role, &name).await.unwrap());
    }
    reads
}

async fn restart(stack: &mut Stack, role: &'static str, replica: &str) {
    stack.stop(role).await;
    stack.set(role, "DATABASE_REPLICA_URL", replica);
    stack.start_role(role);
}

async fn a_database_of_another_service_is_refused(stack: &mut Stack, url: &str) {
    let start = Instant::now();
    restart(stack, "dialog", url).await;
    assert!(stack.crashes_within("dialog", Duration::from_secs(30)).await, "it exits");
    assert!(start.elapsed() < Duration::from_secs(30));
    let refused = stack.log_lines("tidings: DATABASE_REPLICA_URL: it is not a replica of this database");
    assert_eq!(refused.len(), 1, "{refused:?}");
    restart_with_secret(stack).await;
}

/// A URL of another engine is refused without its password.
async fn restart_with_secret(stack: &mut Stack) {
    stack.set("dialog", "DATABASE_REPLICA_URL", "mysql://ann:hidden@localhost/dialog");
    stack.start_role("dialog");
    assert!(stack.crashes_within("dialog", Duration::from_secs(30)).await, "it exits");
    let refused = stack.log_lines("tidings: DATABASE_REPLICA_URL: only a PostgreSQL database has replicas");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(stack.log_lines("hidden"), []);
}
