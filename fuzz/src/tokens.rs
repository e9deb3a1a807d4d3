//! Access tokens and service tokens: nothing but what was signed is believed.

use std::convert::Infallible;

use access::{Claims, KeySet, ServiceToken, SigningKeys};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{Rng, rngs::SmallRng};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

use crate::{Target, mutate};

const NOW_S: i64 = 1_800_000_000;

/// A verifier with its keys.
pub struct Tokens {
    token: String,
    keys: KeySet,
    service: ServiceToken,
    runtime: Runtime,
}

impl Tokens {
    /// With keys of its own, and a clock that does not make it wait for a key that nobody has.
    ///
    /// # Panics
    /// Where no runtime can be made.
    pub fn new() -> Self {
        let signing = SigningKeys::generate();
        let claims = Claims::new("tidings", Uuid::from_u128(1), Uuid::from_u128(2), NOW_S, 60);
        let (token, jwks) = (signing.sign(&claims), signing.jwks());
        let runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let keys = KeySet::new(move || std::future::ready(Ok::<_, Infallible>(jwks.clone())));
        Self { token, keys, service: ServiceToken::generate(), runtime }
    }

    fn believes(&self, token: &str) -> bool {
        self.runtime.block_on(self.keys.verify(token, "tidings", NOW_S)).is_ok()
    }

    /// The token with one of its parts bent, as text or below its base64.
    fn bend(&self, random: &mut SmallRng) -> String {
        if random.random_bool(0.3) {
            return mutate::text(random, &self.token);
        }
        let mut parts: Vec<String> = self.token.split('.').map(str::to_owned).collect();
        let which = random.random_range(0..parts.len());
        let mut bytes = URL_SAFE_NO_PAD.decode(&parts[which]).expect("our own token");
        mutate::bytes(random, &mut bytes);
        parts[which] = URL_SAFE_NO_PAD.encode(bytes);
        parts.join(".")
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self::new()
    }
}

impl Target for Tokens {
    fn name(&self) -> &'static str {
        "tokens"
    }

    fn bent(&mut self, random: &mut SmallRng) -> u64 {
        let token = self.bend(random);
        assert_eq!(self.believes(&token), token == self.token, "{token}");
        let header = self.service.header();
        let bent = mutate::text(random, header.trim_start_matches("Bearer "));
        assert_eq!(self.service.matches(&bent), format!("Bearer {bent}") == header);
        2
    }

    fn raw(&mut self, bytes: &[u8]) {
        assert!(!self.believes(&String::from_utf8_lossy(bytes)));
        assert!(self.believes(&self.token));
    }
}
