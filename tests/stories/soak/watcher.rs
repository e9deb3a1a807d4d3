//! Clients with a live subscription `unread`: each folds frames into a state, and resumes from its version at
//! the other gateway when its socket closes.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::{task::JoinHandle, time::timeout};

use super::{findings::Rule, load::Load};
use crate::{kill::View, socket_client::SocketClient};

/// Time without a frame or a ping after which a client reconnects; gateways ping every 20 s.
const SILENCE_MAX: Duration = Duration::from_secs(45);
const RECONNECT_AFTER: Duration = Duration::from_millis(300);

/// State of one client.
#[derive(Default)]
pub struct Watched {
    pub view: View,
    pub frames: usize,
    pub connections: usize,
}

/// A client's task; ends when dropped.
pub struct Watcher {
    pub watched: Arc<Mutex<Watched>>,
    task: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watcher {
    /// Starts a client of this user, first at gateway 0 or 1.
    pub fn start(load: &Arc<Load>, me: usize, first: usize) -> Self {
        let watched = Arc::<Mutex<Watched>>::default();
        let load = Arc::clone(load);
        let state = Arc::clone(&watched);
        let task = tokio::spawn(async move {
            for attempt in first.. {
                let caller = if load.balanced {
                    &load.people[me].callers[2]
                } else {
                    &load.people[me].callers[attempt % 2]
                };
                let since = state.lock().view.version.clone();
                if let Some(socket) = SocketClient::try_watch_unread(caller, since.as_deref()).await {
                    state.lock().connections += 1;
                    follow(&load, me, &state, socket).await;
                }
                tokio::time::sleep(RECONNECT_AFTER).await;
            }
        });
        Self { watched, task }
    }
}

/// Applies frames until the socket or the subscription ends.
async fn follow(load: &Load, me: usize, state: &Mutex<Watched>, mut socket: SocketClient) {
    while let Ok(Ok(message)) = timeout(SILENCE_MAX, socket.next_or_close("u")).await {
        let errors =
            if message["type"] == "error" { &message["payload"] } else { &message["payload"]["errors"] };
        if let Some(code) = errors[0]["extensions"]["code"].as_str() {
            if code != "UNAVAILABLE" && code != "DEADLINE_EXCEEDED" {
                let since = state.lock().view.version.take();
                load.findings.add(Rule::ViewDiffers, format!("user {me} resumes from {since:?}: {errors}"));
            }
            return;
        }
        if message["type"] != "next" {
            return;
        }
        apply(load, me, &mut state.lock(), &message["payload"]["data"]["unread"]);
    }
}

fn apply(load: &Load, me: usize, state: &mut Watched, frame: &Value) {
    let continues = match frame["kind"].as_str() {
        Some("SNAPSHOT") => true,
        Some("CURRENT") => frame["version"].as_str() == state.view.version.as_deref(),
        _ => frame["previousVersion"].as_str() == state.view.version.as_deref(),
    };
    if !continues {
        load.findings.add(Rule::FrameGap, format!("user {me} at {:?} receives {frame}", state.view.version));
    }
    state.view.apply(frame);
    state.frames += 1;
}
