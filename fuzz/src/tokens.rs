//! Access tokens and service tokens: only unmodified tokens are accepted.

use std::convert::Infallible;

use access::{Claims, Guard, KeySet, ServiceToken, SigningKeys};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{Rng, rngs::SmallRng};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

use crate::{Target, mutate};

const NOW_S: i64 = 1_800_000_000;

/// Verifier with a valid token.
pub struct Tokens {
    token: String,
    guard: Guard,
    service: ServiceToken,
    runtime: Runtime,
}

impl Tokens {
    /// Creates a verifier with new keys. The paused clock skips the waits before a refetch of unknown keys.
    ///
    /// # Panics
    /// If the runtime cannot be created.
    pub fn new() -> Self {
        let signing = SigningKeys::generate();
        let claims = Claims::new("tidings", Uuid::from_u128(1), Uuid::from_u128(2), NOW_S, 60);
        let token = signing.sign(&claims);
        let jwks = signing.jwks();
        let runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let keys = KeySet::new(move || std::future::ready(Ok::<_, Infallible>(jwks.clone())));
        let service = ServiceToken::generate();
        Self { token, guard: Guard::new(keys, service.clone(), "tidings"), service, runtime }
    }

    fn accepts(&self, token: &str) -> bool {
        self.runtime.block_on(self.guard.verify(token, NOW_S)).is_ok()
    }

    /// Mutates the token as text, or one of its parts below the base64 encoding.
    fn mutate(&self, random: &mut SmallRng) -> String {
        if random.random_bool(0.3) {
            return mutate::text(random, &self.token);
        }
        let mut parts: Vec<String> = self.token.split('.').map(str::to_owned).collect();
        let index = random.random_range(0..parts.len());
        let mut bytes = URL_SAFE_NO_PAD.decode(&parts[index]).expect("the token is valid");
        mutate::bytes(random, &mut bytes);
        parts[index] = URL_SAFE_NO_PAD.encode(bytes);
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

    fn mutated(&mut self, random: &mut SmallRng) -> u64 {
        let token = self.mutate(random);
        assert_eq!(self.accepts(&token), token == self.token, "{token}");
        let header = self.service.header();
        let mutated = mutate::text(random, header.trim_start_matches("Bearer "));
        assert_eq!(self.service.matches(&mutated), format!("Bearer {mutated}") == header);
        2
    }

    fn raw(&mut self, bytes: &[u8]) {
        assert!(!self.accepts(&String::from_utf8_lossy(bytes)));
        assert!(self.accepts(&self.token));
    }
}
