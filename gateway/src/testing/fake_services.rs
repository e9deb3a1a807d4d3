//! Fake gRPC services whose replies come from a handler function or from the state in [`FakeServices`].

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use prost::Message;
use proto::{DialogId, Peer, SessionId, UserId, auth, counter, dialog};
use testkit::FakeGrpc;
use tonic::{Code, Status};
use tower::{ServiceExt, util::BoxCloneSyncService};

use crate::{client::rate_limits::RateLimits, peers::Peers};

/// Handler of a fake service: takes the name of the gRPC method and the bytes of the request, and returns the
/// bytes of the reply.
pub type FakeHandler = fn(&str, &[u8]) -> Result<Vec<u8>, Status>;

/// Handler of a service that is unavailable.
pub fn unavailable(_: &str, _: &[u8]) -> Result<Vec<u8>, Status> {
    Err(Status::unavailable("unavailable"))
}

/// Encodes a reply for a [`FakeHandler`].
pub fn reply(message: &impl Message) -> Result<Vec<u8>, Status> {
    Ok(message.encode_to_vec())
}

/// Uses one fake service as auth, dialog and counter.
pub fn everywhere(peer: &Peer) -> Peers {
    Peers::new(peer.clone(), peer.clone(), peer.clone())
}

/// Creates a fake service from a handler. It records the methods that are called in `calls`.
pub fn fake_service<H>(handler: H, calls: Arc<Mutex<Vec<String>>>) -> Peer
where
    H: Fn(&str, &[u8]) -> Result<Vec<u8>, Status> + Send + Sync + 'static,
{
    let fake = FakeGrpc::from_fn(move |method, message| {
        calls.lock().push(method.to_owned());
        handler(method, message)
    });
    BoxCloneSyncService::new(fake.map_err(|never| match never {}))
}

/// State of the fake services.
#[derive(Default)]
pub struct FakeServices {
    /// Version of the unread counts and counter rows of each user.
    pub unread: HashMap<UserId, (i64, Vec<counter::Row>)>,
    /// Number of times that the epoch of the counts, 1 at first, was raised.
    pub raised: i64,
    /// Version of each dialog, and its messages as their authors see them.
    pub dialogs: HashMap<DialogId, (i64, Vec<dialog::Message>)>,
    /// Participants of each dialog, with their read positions.
    pub members: HashMap<DialogId, Vec<(UserId, i64)>>,
    /// Participants who have left their dialogs, before the counter has received the event.
    pub departed: Vec<UserId>,
    /// Ended sessions that auth reports, in this order.
    pub revoked: Vec<SessionId>,
    /// Sessions per page of them; 0 for one page.
    pub revoked_page: usize,
    /// Number of answers with ended sessions, the time of the next question.
    pub revoked_answers: i64,
    /// Sessions that `Logout` and a refused `Refresh` end.
    pub ending: Vec<SessionId>,
    /// Rate limits of the gateway.
    pub limits: RateLimits,
    /// Methods that fail with UNAVAILABLE.
    pub unavailable: BTreeSet<&'static str>,
    /// Methods whose call panics in the gateway's task.
    pub panicking: BTreeSet<&'static str>,
    /// Caller of the methods that depend on one. The fake services do not read the token.
    pub caller: Option<UserId>,
}

impl FakeServices {
    pub fn answer(&mut self, method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
        if self.unavailable.contains(method) {
            return Err(Status::unavailable("unavailable"));
        }
        let malformed = |_| Status::invalid_argument("malformed");
        Ok(match method {
            "RevokedSince" => {
                self.revoked_answers += 1;
                let request = auth::RevokedSinceRequest::decode(bytes).map_err(malformed)?;
                self.revoked_since(request.after).encode_to_vec()
            }
            "Logout" => auth::LogoutReply { ended: ended(&self.ending) }.encode_to_vec(),
            "Refresh" => {
                let details = auth::RefreshRefused { ended: ended(&self.ending) }.encode_to_vec();
                return Err(Status::with_details(Code::Unauthenticated, "reused", details.into()));
            }
            "Users" => {
                let request = auth::UsersRequest::decode(bytes).map_err(malformed)?;
                let user = |id: &Vec<u8>| auth::User {
                    id: id.clone(),
                    name: "Ann".to_owned(),
                    ..Default::default()
                };
                auth::UsersReply { users: request.ids.iter().map(user).collect() }.encode_to_vec()
            }
            "Snapshots" => {
                let request = counter::SnapshotsRequest::decode(bytes).map_err(malformed)?;
                let snapshots = request.of.iter().map(|of| self.snapshot(of)).collect();
                counter::SnapshotsReply { snapshots }.encode_to_vec()
            }
            "ReadStates" => {
                let request = counter::ReadStatesRequest::decode(bytes).map_err(malformed)?;
                let pages = request.pages.iter().map(|page| self.read_states(page)).collect();
                counter::ReadStatesReply { pages }.encode_to_vec()
            }
            "MessagesSince" => {
                let request = dialog::MessagesSinceRequest::decode(bytes).map_err(malformed)?;
                self.messages_since(&request)?.encode_to_vec()
            }
            "Live" => self.live(&dialog::LiveRequest::decode(bytes).map_err(malformed)?).encode_to_vec(),
            "Seen" => {
                let request = counter::SeenRequest::decode(bytes).map_err(malformed)?;
                let user = UserId::parse(&request.user_id).expect("a valid id");
                let (number, _) = self.unread.get(&user).cloned().unwrap_or_default();
                let seen = request.version.expect("a version");
                self.raised += i64::from(seen.epoch == 1 + self.raised && seen.number > number);
                counter::SeenReply { epoch: 1 + self.raised }.encode_to_vec()
            }
            // Replies that the requested version is the newest one.
            "Unread" => {
                let request = counter::UnreadRequest::decode(bytes).map_err(malformed)?;
                let version = request.at_least.or(Some(counter::Version { epoch: 1, number: 0 }));
                counter::UnreadReply { version, ..Default::default() }.encode_to_vec()
            }
            "Participants" => {
                let request = dialog::ParticipantsRequest::decode(bytes).map_err(malformed)?;
                let dialog = DialogId::parse(&request.dialog_id).expect("a valid id");
                let user_ids = self.members[&dialog].iter().map(|(user, _)| user.bytes()).collect();
                dialog::ParticipantsReply { user_ids }.encode_to_vec()
            }
            "Get" => self.get(&dialog::GetRequest::decode(bytes).map_err(malformed)?).encode_to_vec(),
            _ => return Err(Status::unavailable("the fake service does not implement this method")),
        })
    }

    fn revoked_since(&self, after: Option<auth::RevokedPosition>) -> auth::RevokedSinceReply {
        let start = after.map_or(0, |after| usize::try_from(after.ended_at_us).expect("a position"));
        let size = if self.revoked_page == 0 { usize::MAX } else { self.revoked_page };
        let end = start.saturating_add(size).min(self.revoked.len());
        let more = (end < self.revoked.len())
            .then(|| auth::RevokedPosition { ended_at_us: end as i64, session_id: Vec::new() });
        let sessions = ended(&self.revoked[start..end]);
        auth::RevokedSinceReply { sessions, more, next_since_us: self.revoked_answers }
    }

    fn snapshot(&self, of: &counter::SnapshotOf) -> counter::Snapshot {
        let user = UserId::parse(&of.user_id).expect("a valid id");
        let (number, rows) = self.unread.get(&user).cloned().unwrap_or_default();
        let version = Some(counter::Version { epoch: 1 + self.raised, number });
        let current = of.since.is_some() && of.since == version;
        let total = rows.iter().map(|row| row.unread).sum();
        let rows = if current { Vec::new() } else { rows.into_iter().filter(|row| row.unread > 0).collect() };
        counter::Snapshot {
            user_id: of.user_id.clone(),
            version,
            total,
            current,
            rows,
            truncated: false,
            stale: false,
        }
    }

    fn read_states(&self, page: &counter::ReadStatesPage) -> counter::ReadStatesPageReply {
        let members = self.members.get(&DialogId::parse(&page.dialog_id).expect("a valid id"));
        let caller = self.caller.expect("the test sets the caller");
        let Some(members) = members.filter(|members| members.iter().any(|(user, _)| *user == caller)) else {
            return counter::ReadStatesPageReply::default();
        };
        let state = |(user, read_seq): &(UserId, i64)| counter::ReadState {
            user_id: user.bytes(),
            read_seq: *read_seq,
        };
        counter::ReadStatesPageReply { found: true, states: members.iter().map(state).collect() }
    }

    fn get(&self, request: &dialog::GetRequest) -> dialog::GetReply {
        let is_participant = |id: &&Vec<u8>| {
            let members = self.members.get(&DialogId::parse(id).expect("a valid id")).into_iter().flatten();
            members
                .map(|(user, _)| *user)
                .any(|user| self.caller == Some(user) && !self.departed.contains(&user))
        };
        let visible = request.ids.iter().filter(is_participant);
        dialog::GetReply {
            dialogs: visible.map(|id| dialog::Dialog { id: id.clone(), ..Default::default() }).collect(),
        }
    }

    fn messages_since(
        &self,
        request: &dialog::MessagesSinceRequest,
    ) -> Result<dialog::MessagesSinceReply, Status> {
        let dialog = DialogId::parse(&request.dialog_id).expect("a valid id");
        let caller = self.caller.expect("the test sets the caller");
        let members =
            self.members.get(&dialog).filter(|members| members.iter().any(|(user, _)| *user == caller));
        members.ok_or_else(|| Status::not_found("no such dialog"))?;
        let (number, messages) = &self.dialogs[&dialog];
        let above = request.since.map_or(i64::MAX, |since| since.number);
        let messages = messages.iter().filter(|message| message.version > above).cloned().collect();
        let head = Some(dialog::Version { epoch: 1, number: *number });
        Ok(dialog::MessagesSinceReply { head, messages, reset: false })
    }

    fn live(&self, request: &dialog::LiveRequest) -> dialog::LiveReply {
        let dialog = DialogId::parse(&request.dialog_id).expect("a valid id");
        let (number, messages) = &self.dialogs[&dialog];
        let is_member = |id: &&Vec<u8>| self.members[&dialog].iter().any(|(user, _)| user.bytes() == **id);
        dialog::LiveReply {
            head: Some(dialog::Version { epoch: 1, number: *number }),
            messages: messages.iter().filter(|it| request.message_ids.contains(&it.id)).cloned().collect(),
            member_ids: request.user_ids.iter().filter(is_member).cloned().collect(),
        }
    }
}

fn ended(sessions: &[SessionId]) -> Vec<auth::EndedSession> {
    let ended =
        |session: &SessionId| auth::EndedSession { session_id: session.bytes(), expires_at_us: i64::MAX };
    sessions.iter().map(ended).collect()
}
