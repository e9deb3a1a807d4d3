//! Documents, through everything that admits one: the look before parsing, the parser, the bounds, validation, cost.

use async_graphql::Variables;
use gateway::{documents, error::Code, limits::COMPLEXITY_MAX};
use rand::{Rng, rngs::SmallRng};
use tokio::runtime::{Builder, Runtime};

use crate::{Target, grammar::Grammar, mutate};

/// The documents of a gateway.
pub struct Documents {
    grammar: Grammar,
    documents: documents::Documents,
    introspection: bool,
    runtime: Runtime,
}

impl Documents {
    /// Of one that lets its schema be read, or does not.
    ///
    /// # Panics
    /// Where no runtime can be made.
    pub fn new(introspection: bool) -> Self {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        Self {
            grammar: Grammar::new(),
            documents: documents::Documents::new(introspection),
            introspection,
            runtime,
        }
    }

    fn read(&self, text: &str, name: Option<&str>, variables: &Variables) {
        let found = self.documents.find(text.into(), name.map(str::to_owned), variables);
        match self.runtime.block_on(found) {
            Ok(ready) => {
                assert!(ready.cost <= COMPLEXITY_MAX, "it costs {}: {text}", ready.cost);
                let asked = !self.introspection && text.contains("__schema");
                let reached = asked && format!("{:?}", ready.operation.document).contains("\"__schema\"");
                assert!(!reached, "introspection is off: {text}");
            }
            Err(rejected) => {
                assert_ne!(rejected.code(), Code::Internal, "{text}");
                assert!(!rejected.errors().is_empty(), "refused without a word: {text}");
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

    fn bent(&mut self, random: &mut SmallRng) -> u64 {
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
        self.read(&text, name, &variables);
        1
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.read(&String::from_utf8_lossy(bytes), None, &Variables::default());
    }
}
