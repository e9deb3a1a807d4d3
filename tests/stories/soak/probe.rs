//! Probe of health after a fault: a message goes from a client through all roles to the counters at both
//! gateways, and nothing from before the end of the fault is left in an outbox or PENDING.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;

use super::{findings::Rule, load::Load, system::System};

/// Time to heal from a fault.
const HEAL_MAX: Duration = Duration::from_secs(150);

/// The two users and the dialog of the probe; the reader reads nothing.
pub struct Probe {
    pub sender: usize,
    pub reader: usize,
    pub dialog: usize,
    sent: i64,
}

impl Probe {
    pub fn new(sender: usize, reader: usize, dialog: usize) -> Self {
        Self { sender, reader, dialog, sent: 0 }
    }

    /// Waits until the system works again after a fault. Returns the time that it took, or `None` after
    /// recording that it did not.
    pub async fn heal(&mut self, load: &Load, system: &System, fault: &str) -> Option<Duration> {
        let started = Instant::now();
        match tokio::time::timeout(HEAL_MAX, self.healed(load, system)).await {
            Ok(()) => Some(started.elapsed()),
            Err(_) => {
                let ready = system.is_ready().await;
                load.findings.add(Rule::NotHealed, format!("{fault}: after {HEAL_MAX:?}; ready: {ready}"));
                None
            }
        }
    }

    async fn healed(&mut self, load: &Load, system: &System) {
        let ended_us = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros();
        let ended_us = i64::try_from(ended_us).expect("before the year 290000");
        while !system.is_ready().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut random = StdRng::from_os_rng();
        self.sent += 1;
        let key = format!("{:016x}", random.random::<u64>());
        let sent = load.send_key(self.sender, self.dialog, key, None, &mut random).await;
        while sent.is_some() && !self.is_counted(load).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        loop {
            if let Ok(databases) = system.databases().await {
                let backlog = databases.backlog(ended_us).await;
                databases.close().await;
                if matches!(backlog, Ok((0, 0))) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns true if both gateways answer the count of all messages of the probe.
    async fn is_counted(&self, load: &Load) -> bool {
        for caller in &load.people[self.reader].callers[..2] {
            let answer = caller.try_execute("{ unread { total } }", json!({})).await.unwrap_or_default();
            if answer["data"]["unread"]["total"] != self.sent {
                return false;
            }
        }
        true
    }
}
