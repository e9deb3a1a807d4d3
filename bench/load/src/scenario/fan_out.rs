//! One message to many sockets: a group of 1,000, one user with 1,000 sockets, and 10,000 users in groups.
//! Open loop, slow enough that a message is delivered before the next one.

use std::{sync::Arc, time::Duration};

use super::{Bench, Outcome};
use crate::{
    connection::Pool,
    latency::Latencies,
    readers::{Reader, Readers},
    schedule::Schedule,
    system::System,
    workload::Workload,
};

/// Description in the report.
pub const TEXT: &str = "Sockets at both gateways where there are two. *Frame* is the time from the \
intended start of a send to the frame at each socket, *last frame* to the last of them. One user has \
1,000 sockets with `MAX_SOCKETS_PER_USER=1000`. 10,000 users are 10 groups of 1,000. The costs are those \
of one delivered frame.";

/// Largest group.
const GROUP: usize = 1_000;
const GROUPS: usize = 10;
const SETTINGS: [(&str, &str); 1] = [("MAX_SOCKETS_PER_USER", "1000")];
/// Connections of the authors.
const CONNECTIONS: usize = 16;
const WARM_UP: Schedule = Schedule::new(2, Duration::from_secs(2));

/// Runs the scenario once.
pub async fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let members = |group: usize| (0..GROUP).map(|member| group * GROUP + member).collect::<Vec<_>>();
    let seconds = Duration::from_secs(bench.seconds);
    let cases = [
        ("group of 1,000", vec![members(0)], Schedule::new(2, seconds)),
        ("1,000 sockets of one user", vec![vec![0, 1]], Schedule::new(2, seconds)),
        ("10,000 users", (0..GROUPS).map(members).collect(), Schedule::new(2, seconds)),
    ];
    for (case, dialogs, schedule) in cases {
        if bench.skips(case) {
            continue;
        }
        let mut system = bench.start(&SETTINGS).await?;
        let users = dialogs.iter().map(Vec::len).sum();
        let mut workload = Workload::with_users(&system, users).await?;
        workload.add_dialogs(dialogs.clone()).await?;
        let readers = if users == 2 { sockets_of_one_user() } else { sockets_of_groups(&dialogs) };
        deliver(&system, &Arc::new(workload), readers, case, schedule, &mut outcome).await?;
        system.stop_all().await?;
    }
    Ok(outcome)
}

fn sockets_of_one_user() -> Vec<Reader> {
    (0..GROUP).map(|number| Reader { user: 1, dialog: 0, gateway: number % 2 }).collect()
}

/// Returns a socket for every member of a group except its first, the author.
fn sockets_of_groups(dialogs: &[Vec<usize>]) -> Vec<Reader> {
    let of_group = |(dialog, members): (usize, &Vec<usize>)| {
        let reader = move |user: &usize| Reader { user: *user, dialog, gateway: user % 2 };
        members[1..].iter().map(reader).collect::<Vec<_>>()
    };
    dialogs.iter().enumerate().flat_map(of_group).collect()
}

async fn deliver(
    system: &System,
    workload: &Arc<Workload>,
    sockets: Vec<Reader>,
    case: &str,
    schedule: Schedule,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let dialogs: Vec<usize> = (0..workload.dialogs.len()).collect();
    let mut readers = Readers::subscribe(system, workload, sockets).await?;
    let pool = Pool::new(system.gateway(0), CONNECTIONS);
    workload.send_by_schedule(&pool, &dialogs, WARM_UP).await?;
    readers.wait_for_frames(workload).await?;
    let before = system.reading().await?;
    let sends = workload.send_by_schedule(&pool, &dialogs, schedule).await?;
    let frames = readers.wait_for_frames(workload).await?;
    workload.drain().await?;
    let cost = system.reading().await?.cost_since(&before, frames.len() as u64);
    let latencies = readers.latencies(&sends, &frames)?;
    let last = latencies.iter().filter_map(|of_send| of_send.iter().max().copied());
    let mut values = Latencies::of(last).summary("last frame");
    values.extend(Latencies::of(latencies.into_iter().flatten()).summary("frame"));
    outcome.add("Latency", case, values);
    outcome.add_cost(case, &cost);
    drop(readers);
    outcome.compared += workload.compare().await?;
    Ok(())
}
