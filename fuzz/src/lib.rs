//! Fuzz tests: every parser of untrusted bytes must accept or reject its input, and never panic, hang or
//! grow. A [`Target`] generates its inputs from a seed, so every finding can be reproduced by its
//! number.

mod bodies;
mod documents;
mod events;
mod frames;
mod grammar;
mod mutate;
mod texts;
mod tokens;

use rand::{SeedableRng, rngs::SmallRng};

pub use bodies::Bodies;
pub use documents::Documents;
pub use events::Events;
pub use frames::Frames;
pub use texts::Texts;
pub use tokens::Tokens;

/// A parser of untrusted bytes.
pub trait Target {
    /// Name of the input, as `make fuzz` prints it.
    fn name(&self) -> &'static str;

    /// Parses valid inputs that were mutated at random. Returns the number of inputs.
    ///
    /// # Panics
    /// If the parser panics or violates an invariant.
    fn mutated(&mut self, random: &mut SmallRng) -> u64;

    /// Parses arbitrary bytes.
    ///
    /// # Panics
    /// If the parser panics or violates an invariant.
    fn raw(&mut self, bytes: &[u8]);
}

/// Creates every target.
pub fn targets() -> Vec<Box<dyn Target>> {
    vec![
        Box::new(Frames::new()),
        Box::new(Documents::new(true)),
        Box::new(Documents::new(false)),
        Box::new(Bodies),
        Box::new(Texts),
        Box::new(Tokens::new()),
        Box::new(Events),
    ]
}

/// Creates the random number generator of a seed.
pub fn seeded(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}
