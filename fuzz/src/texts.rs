//! Cursors, versions and ids: values that clients received earlier and may have modified.

use gateway::fuzzing::{List, Version};
use proto::{DialogId, MessageId, UserId};
use rand::{Rng, rngs::SmallRng};

use crate::{Target, mutate};

/// Parsers of cursors, versions and ids.
pub struct Texts;

impl Texts {
    fn parse(text: &str) {
        if let Ok(version) = text.parse::<Version>() {
            assert_eq!(version.to_string(), text, "a version has only one spelling");
        }
        for list in [List::new("messages", "a-dialog"), List::new("users", "")] {
            if let Ok(position) = list.position::<i64>(text) {
                assert!(list.cursor(&position.to_string()).len() <= text.len() + 4, "{text}");
            }
            if let Ok(position) = list.position::<String>(text) {
                assert_eq!(list.cursor(&position), text, "a cursor has only one spelling");
            }
        }
    }

    fn id(bytes: &[u8]) {
        let parsed =
            [UserId::parse(bytes).is_ok(), DialogId::parse(bytes).is_ok(), MessageId::parse(bytes).is_ok()];
        assert_eq!(parsed, [bytes.len() == 16; 3], "an id has 16 bytes");
    }
}

impl Target for Texts {
    fn name(&self) -> &'static str {
        "cursors and versions"
    }

    fn mutated(&mut self, random: &mut SmallRng) -> u64 {
        let position = random.random::<i64>().to_string();
        let parent = mutate::string(random);
        let list = List::new("messages", &parent);
        let valid = list.cursor(&position);
        if valid.len() <= 256 {
            assert_eq!(list.position::<String>(&valid).ok().as_deref(), Some(position.as_str()));
        }
        let version =
            Version::new(random.random_range(0..=i64::MAX), random.random_range(0..=i64::MAX)).to_string();
        assert!(version.parse::<Version>().is_ok());
        for text in [valid, version, List::new("messages", "a-dialog").cursor(&position)] {
            Self::parse(&mutate::text(random, &text));
        }
        let mut id = random.random::<[u8; 16]>().to_vec();
        mutate::bytes(random, &mut id);
        Self::id(&id);
        4
    }

    fn raw(&mut self, bytes: &[u8]) {
        Self::parse(&String::from_utf8_lossy(bytes));
        Self::id(bytes);
    }
}
