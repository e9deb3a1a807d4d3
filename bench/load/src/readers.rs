//! Readers of the scenarios: sockets whose frames are compared with the acknowledged sends. A reader takes
//! part in one dialog, reads nothing and sends nothing, so that the count of every frame must be the number
//! of the newest message that it counts.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout_at,
};

use crate::{
    oracle::UserIndex,
    socket::{Arrival, Socket, Subscribers},
    system::System,
    workload::{Acknowledged, Workload},
};

/// Sockets that connect at the same time.
const CONNECTING: usize = 32;
/// Time within which the last frame must arrive.
const LAST_FRAME_MAX: Duration = Duration::from_secs(60);

/// Socket to open.
#[derive(Debug, Clone, Copy)]
pub struct Reader {
    /// User.
    pub user: UserIndex,
    /// Dialog of the user.
    pub dialog: usize,
    /// Index of the gateway.
    pub gateway: usize,
}

/// Frame that says up to which message a reader's dialog is counted.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    socket: usize,
    last_seq: u64,
    at: Instant,
}

/// Open sockets.
pub struct Readers {
    readers: Vec<Reader>,
    subscribers: Subscribers,
    arrivals: UnboundedReceiver<Arrival>,
    /// Newest counted message by socket.
    newest: Vec<u64>,
}

impl Readers {
    /// Connects all of them. Fails if the first frame of one has another count than that of the
    /// acknowledged sends.
    pub async fn subscribe(
        system: &System,
        workload: &Workload,
        readers: Vec<Reader>,
    ) -> anyhow::Result<Self> {
        let (sender, arrivals) = unbounded_channel();
        let open = |(number, reader): (usize, Reader)| async move {
            let opened =
                Socket::subscribe(system.gateway(reader.gateway), &workload.users[reader.user].token).await;
            let (socket, first) = opened.with_context(|| format!("socket {number}"))?;
            let head = workload.oracle.lock().head(reader.dialog);
            ensure!(first.total == head, "a reader begins with {} unread messages of {head}", first.total);
            anyhow::Ok((number, head, socket))
        };
        let mut opening =
            stream::iter(readers.iter().copied().enumerate()).map(open).buffer_unordered(CONNECTING);
        let mut subscribers = Subscribers::default();
        let mut newest = vec![0; readers.len()];
        while let Some((number, head, socket)) = opening.try_next().await? {
            newest[number] = head;
            subscribers.add(number, socket, sender.clone());
        }
        drop(opening);
        Ok(Self { readers, subscribers, arrivals, newest })
    }

    /// Receives frames until every reader knows the newest message of its dialog. Returns them in the order
    /// of their arrival at each socket.
    pub async fn wait_for_frames(&mut self, workload: &Workload) -> anyhow::Result<Vec<Counted>> {
        let head = |reader: &Reader| workload.oracle.lock().head(reader.dialog);
        let heads: Vec<u64> = self.readers.iter().map(head).collect();
        let mut behind = self.newest.iter().zip(&heads).filter(|(newest, head)| newest < head).count();
        let deadline = tokio::time::Instant::now() + LAST_FRAME_MAX;
        let mut counted = Vec::new();
        while behind > 0 {
            let arrival = timeout_at(deadline, self.arrivals.recv()).await.context("a frame is missing")?;
            let Arrival { socket, at, frame } = arrival.context("all sockets were closed")?;
            let [row] = &frame.changed[..] else { bail!("a frame without its row: {frame:?}") };
            let is_exact = row.unread == row.last_seq && frame.total == row.unread;
            let dialog = &workload.dialogs[self.readers[socket].dialog];
            ensure!(is_exact && row.dialog_id == *dialog, "a wrong frame: {frame:?}");
            let newest = &mut self.newest[socket];
            behind -= usize::from(*newest < heads[socket] && row.last_seq >= heads[socket]);
            *newest = (*newest).max(row.last_seq);
            counted.push(Counted { socket, last_seq: row.last_seq, at });
        }
        self.subscribers.check()?;
        Ok(counted)
    }

    /// Returns the times from the intended start of each send to the first frame that counts it, at every
    /// reader of its dialog: one list for each send.
    pub fn latencies(
        &self,
        sends: &[Acknowledged],
        frames: &[Counted],
    ) -> anyhow::Result<Vec<Vec<Duration>>> {
        let dialogs: Vec<usize> = self.readers.iter().map(|reader| reader.dialog).collect();
        latencies(&dialogs, sends, frames)
    }
}

/// Returns [`Readers::latencies`] for sockets whose dialogs these are.
fn latencies(
    dialogs: &[usize],
    sends: &[Acknowledged],
    frames: &[Counted],
) -> anyhow::Result<Vec<Vec<Duration>>> {
    let mut by_socket: Vec<Vec<Counted>> = vec![Vec::new(); dialogs.len()];
    frames.iter().for_each(|frame| by_socket[frame.socket].push(*frame));
    let mut sockets: Vec<Vec<usize>> = vec![Vec::new(); dialogs.iter().max().map_or(0, |last| last + 1)];
    dialogs.iter().enumerate().for_each(|(socket, dialog)| sockets[*dialog].push(socket));
    let of_send = |send: &Acknowledged| {
        let of_socket = |socket: &usize| {
            let frames = &by_socket[*socket];
            let first = frames.partition_point(|frame| frame.last_seq < send.seq);
            let frame = frames.get(first).context("a send without a frame")?;
            Ok(frame.at.saturating_duration_since(send.intended))
        };
        sockets.get(send.dialog).context("a dialog without a reader")?.iter().map(of_socket).collect()
    };
    sends.iter().map(of_send).collect()
}

#[test]
fn a_send_is_counted_by_the_first_frame_that_includes_it_at_every_socket() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let send = |dialog, seq, ms| Acknowledged { dialog, seq, intended: at(ms), answered: at(ms) };
    let frame = |socket, last_seq, ms| Counted { socket, last_seq, at: at(ms) };
    let frames = [frame(0, 1, 10), frame(1, 1, 11), frame(2, 2, 13), frame(0, 3, 30)];
    let sends = [send(0, 1, 0), send(0, 2, 5), send(0, 3, 7), send(1, 1, 1)];
    let found = latencies(&[0, 1, 1], &sends, &frames).unwrap();
    let expected = [vec![10], vec![25], vec![23], vec![10, 12]];
    assert_eq!(found, expected.map(|times| times.into_iter().map(Duration::from_millis).collect::<Vec<_>>()));
    assert!(latencies(&[0], &[send(0, 4, 0)], &frames[..1]).is_err());
    assert!(latencies(&[0], &[send(1, 1, 0)], &frames[..1]).is_err());
}
