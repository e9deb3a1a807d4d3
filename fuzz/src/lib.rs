//! What comes from outside, made at random and bent: every reader of foreign bytes must answer or refuse, and never panic,
//! hang or grow. A [`Target`] makes its inputs from a seed, so that whatever is found is found again by its number.

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

/// A reader of foreign bytes.
pub trait Target {
    /// What is read, as `make fuzz` prints it.
    fn name(&self) -> &'static str;

    /// Reads inputs made with this randomness, valid ones that were bent; gives how many.
    ///
    /// # Panics
    /// Where the reader does, or breaks a promise.
    fn bent(&mut self, random: &mut SmallRng) -> u64;

    /// Reads these bytes.
    ///
    /// # Panics
    /// As [`Target::bent`].
    fn raw(&mut self, bytes: &[u8]);
}

/// Every target.
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

/// The randomness of a number.
pub fn seeded(number: u64) -> SmallRng {
    SmallRng::seed_from_u64(number)
}
