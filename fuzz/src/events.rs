//! Events of the log, decoded as the counter and the gateway do.

use counter::event;
use gateway::fuzzing::{messages, unread};
use proto::{
    SessionId,
    events::{
        Counted, DialogCreated, MessageDeleted, MessageSent, ParticipantJoined, SessionRevoked,
        UnreadChanged, UnreadRow, event::Kind,
    },
};
use rand::{Rng, rngs::SmallRng};

use crate::{Target, mutate};

/// Decoders of events.
pub struct Events;

impl Events {
    fn decode(payload: &[u8]) {
        let counted = event::decode(payload);
        let Some(kind) = Kind::decode(payload) else {
            assert!(counted.is_err(), "an unknown event is an error");
            return;
        };
        assert_eq!(
            Kind::decode(&kind.clone().payload()).as_ref(),
            Some(&kind),
            "an event survives a round trip"
        );
        match &kind {
            Kind::UnreadChanged(event) => {
                let _accepted_or_not = unread::frame::Change::from_event(event);
            }
            Kind::SessionRevoked(event) => {
                let _accepted_or_not = SessionId::parse_all(&event.session_ids);
            }
            kind => {
                let _accepted_or_not = messages::frame::Event::from_log(kind);
            }
        }
    }

    fn kind(random: &mut SmallRng) -> Kind {
        let number = |random: &mut SmallRng| match random.random_range(0..4) {
            0 => random.random::<i64>(),
            1 => [0, -1, i64::MIN, i64::MAX, (1 << 53) + 1][random.random_range(0..5)],
            _ => random.random_range(1..1_000),
        };
        let id = |random: &mut SmallRng| {
            let length = if random.random_bool(0.9) { 16 } else { random.random_range(0..40) };
            (0..length).map(|_| random.random()).collect::<Vec<u8>>()
        };
        let dialog_id = id(random);
        let version = number(random);
        let seq = number(random);
        match random.random_range(0..7) {
            0 => Kind::DialogCreated(DialogCreated { dialog_id, version }),
            1 => Kind::ParticipantJoined(ParticipantJoined {
                dialog_id,
                version,
                user_id: id(random),
                joined_seq: seq,
            }),
            2 => Kind::MessageSent(MessageSent {
                dialog_id,
                version,
                seq,
                message_id: id(random),
                sender_id: id(random),
                created_at_us: number(random),
                read_up_to: number(random),
                ..MessageSent::default()
            }),
            3 => Kind::MessageDeleted(MessageDeleted {
                dialog_id,
                version,
                seq,
                message_id: id(random),
                sender_id: id(random),
            }),
            4 => Kind::Counted(Counted { dialog_id, seq, message_id: id(random) }),
            5 => Kind::SessionRevoked(SessionRevoked {
                session_ids: (0..random.random_range(0..4)).map(|_| id(random)).collect(),
                user_id: id(random),
                expires_at_us: number(random),
            }),
            _ => {
                let rows = (0..random.random_range(0..5)).map(|_| UnreadRow {
                    dialog_id: id(random),
                    unread: number(random),
                    was: number(random),
                    read_seq: number(random),
                    last_seq: number(random),
                    stale: random.random(),
                });
                let rows = rows.collect();
                Kind::UnreadChanged(UnreadChanged {
                    user_id: id(random),
                    version,
                    rows,
                    ..UnreadChanged::default()
                })
            }
        }
    }
}

impl Target for Events {
    fn name(&self) -> &'static str {
        "events"
    }

    fn mutated(&mut self, random: &mut SmallRng) -> u64 {
        let mut payload = Self::kind(random).payload();
        if random.random_bool(0.6) {
            mutate::bytes(random, &mut payload);
        }
        Self::decode(&payload);
        1
    }

    fn raw(&mut self, bytes: &[u8]) {
        Self::decode(bytes);
    }
}
