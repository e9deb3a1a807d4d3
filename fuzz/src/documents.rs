//! GraphQL documents through every stage before execution: token limits, parser, query limits,
//! validation, cost.

use async_graphql::Variables;
use gateway::fuzzing::{COMPLEXITY_MAX, Code, DocumentCache};
use rand::{Rng, rngs::SmallRng};
use tokio::runtime::{Builder, Runtime};

use crate::{Target, grammar::Grammar, mutate};

/// A gateway's document cache.
pub struct Documents {
    grammar: Grammar,
    documents: DocumentCache,
    introspection: bool,
    runtime: Runtime,
}

impl Documents {
    /// Creates a cache with introspection on or off.
    ///
    /// # Panics
    /// If the runtime cannot be created.
    pub fn new(introspection: bool) -> Self {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        Self { grammar: Grammar::new(), documents: DocumentCache::new(introspection), introspection, runtime }
    }

    fn check(&self, text: &str, name: Option<&str>, variables: &Variables) {
        let found = self.documents.prepare(text.into(), name.map(str::to_owned), variables);
        match self.runtime.block_on(found) {
            Ok(ready) => {
                assert!(ready.cost <= COMPLEXITY_MAX, "cost {}: {text}", ready.cost);
                let requested = !self.introspection && text.contains("__schema");
                let accepted = requested && format!("{:?}", ready.document()).contains("\"__schema\"");
                assert!(!accepted, "introspection is off: {text}");
            }
            Err(rejected) => {
                assert_ne!(rejected.code(), Code::Internal, "{text}");
                assert!(!rejected.errors().is_empty(), "rejected without an error: {text}");
                let size: usize = rejected.errors().iter().map(|error| error.message.len()).sum();
                assert!(size < 100_000, "{size} bytes of errors: {text}");
            }
        }
    }
}

impl Target for Documents {
    fn name(&self) -> &'static str {
        if self.introspection { "documents" } else { "documents, introspection off" }
    }

    fn mutated(&mut self, random: &mut SmallRng) -> u64 {
        let mut text = self.grammar.document(random);
        if random.random_bool(0.4) {
            text = mutate::text(random, &text);
        }
        if random.random_bool(0.001) {
            text = mutate::one(random, &["{a", "[", "{ ...F } ", "\"", "#", "@a "])
                .repeat(random.random_range(1..20_000));
        }
        let name = mutate::one(random, &["", "", "A", "B", "\"\n"]);
        let name = (!name.is_empty()).then_some(name);
        let variables = if random.random_bool(0.3) {
            let mut given = mutate::object(random, 3);
            given.insert("id".to_owned(), mutate::value(random, 1));
            Variables::from_json(given.into())
        } else {
            Variables::default()
        };
        self.check(&text, name, &variables);
        1
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.check(&String::from_utf8_lossy(bytes), None, &Variables::default());
    }
}
