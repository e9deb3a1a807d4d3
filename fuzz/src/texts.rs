//! Cursors, versions and ids: what clients hand back, and may have changed on the way.

use gateway::{cursor::List, version::Version};
use proto::{DialogId, MessageId, UserId};
use rand::{Rng, rngs::SmallRng};

use crate::{Target, mutate};

/// Their readers.
pub struct Texts;

impl Texts {
    fn read(text: &str) {
        if let Ok(version) = text.parse::<Version>() {
            assert_eq!(version.to_string(), text, "one spelling a version");
        }
        for list in [List::new("messages", "a-dialog"), List::new("users", "")] {
            if let Ok(position) = list.position::<i64>(text) {
                assert!(list.cursor(&position.to_string()).len() <= text.len() + 4, "{text}");
            }
            if let Ok(position) = list.position::<String>(text) {
                assert_eq!(list.cursor(&position), text, "one spelling a cursor");
            }
        }
    }

    fn id(bytes: &[u8]) {
        let read =
            [UserId::parse(bytes).is_ok(), DialogId::parse(bytes).is_ok(), MessageId::parse(bytes).is_ok()];
        assert_eq!(read, [bytes.len() == 16; 3], "an id has 16 bytes");
    }
}

impl Target for Texts {
    fn name(&self) -> &'static str {
        "cursors and versions"
    }

    fn bent(&mut self, random: &mut SmallRng) -> u64 {
        let position = random.random::<i64>().to_string();
        let parent = mutate::string(random);
        let list = List::new("messages", &parent);
        let good = list.cursor(&position);
        if good.len() <= 256 {
            assert_eq!(list.position::<String>(&good).ok().as_deref(), Some(position.as_str()));
        }
        let version =
            Version::new(random.random_range(0..=i64::MAX), random.random_range(0..=i64::MAX)).to_string();
        assert!(version.parse::<Version>().is_ok());
        for text in [good, version, List::new("messages", "a-dialog").cursor(&position)] {
            Self::read(&mutate::text(random, &text));
        }
        let mut id = random.random::<[u8; 16]>().to_vec();
        mutate::bytes(random, &mut id);
        Self::id(&id);
        4
    }

    fn raw(&mut self, bytes: &[u8]) {
        Self::read(&String::from_utf8_lossy(bytes));
        Self::id(bytes);
    }
}
