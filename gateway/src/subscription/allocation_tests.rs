//! Bound of the allocations of a frame, from the hub to the client's end of the socket. The client allocates
//! too. The difference between few and many sockets of one user leaves out what an event costs once.

use allocation_counter::measure;
use proto::{DialogId, UserId};
use serde_json::json;
use tokio::runtime::Builder;

use super::tests::{UNREAD, changed, row};
use crate::testing::{RunningGateway, SocketClient};

const FEW: u64 = 5;
const MANY: u64 = 20;
const FRAMES: u64 = 30;
/// Measured: 13 to 16, by the order in which the tasks run.
const ALLOCATIONS_MAX: u64 = 20;

/// Returns the allocations while every socket of a user receives [`FRAMES`] frames.
fn allocations(sockets: u64) -> u64 {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let user = UserId::now();
    let dialog = DialogId::now();
    let (gateway, mut clients) = runtime.block_on(async {
        let gateway = RunningGateway::start().await;
        gateway.services().unread.insert(user, (4, vec![row(dialog, 1)]));
        let mut clients = Vec::new();
        for _ in 0..sockets {
            let mut client = gateway.sign_in(user).await;
            client.subscribe("u", UNREAD, json!({})).await;
            assert_eq!(client.result("u").await["data"]["unread"]["kind"], "SNAPSHOT");
            clients.push(client);
        }
        (gateway, clients)
    });
    let mut version = 4;
    let mut deliver = |clients: &mut Vec<SocketClient>, frames| {
        runtime.block_on(async {
            for _ in 0..frames {
                version += 1;
                gateway.emit(changed(user, version, dialog, version - 3, version - 4)).await;
                for client in &mut *clients {
                    let frame = client.next().await.into_text().expect("a text");
                    assert!(frame.contains("CHANGE"), "{frame}");
                }
            }
        });
    };
    // The first frames fill buffers.
    deliver(&mut clients, 3);
    measure(|| deliver(&mut clients, FRAMES)).count_total
}

#[test]
fn a_frame_allocates_within_its_bound() {
    let each = allocations(MANY).saturating_sub(allocations(FEW)) / ((MANY - FEW) * FRAMES);
    println!("{each} allocations for each frame");
    assert!(
        (1..=ALLOCATIONS_MAX).contains(&each),
        "{each} allocations for a frame, {ALLOCATIONS_MAX} at most"
    );
}
