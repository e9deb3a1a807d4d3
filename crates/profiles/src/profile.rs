//! Samples of a profile: stacks of addresses with their values, before functions are named.

use std::time::{Duration, SystemTime};

use crate::{flamegraph::Frame, symbols::Symbols};

/// Meaning of a value and its unit, in the words of `pprof`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ValueType {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
}

/// Stack with its values.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    /// Addresses inside the calling instructions, the innermost first.
    pub(crate) addresses: Vec<usize>,
    /// Name of the thread, if the stack belongs to one.
    pub(crate) thread: Option<String>,
    /// A value of each type of the profile.
    pub(crate) values: Vec<i64>,
}

/// Recorded profile.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    /// Types of the values of a stack. The last is its weight: CPU time or bytes.
    pub(crate) types: Vec<ValueType>,
    /// Weight that one sample stands for on average.
    pub(crate) period: i64,
    pub(crate) started: SystemTime,
    /// Zero for a profile of one moment.
    pub(crate) duration: Duration,
    pub(crate) stacks: Vec<Stack>,
}

impl Profile {
    /// Draws a flame graph, in which a frame is as wide as the weight of its stacks. Threads stand at the
    /// bottom.
    pub(crate) fn flamegraph(&self, title: &str) -> String {
        let mut symbols = Symbols::default();
        let mut root = Frame::default();
        for stack in &self.stacks {
            let mut names: Vec<String> = stack.thread.iter().cloned().collect();
            for &address in stack.addresses.iter().rev() {
                names.extend(symbols.at(address).iter().rev().map(|function| function.name.clone()));
            }
            root.add(
                names.iter().map(String::as_str),
                stack.values.last().map_or(0, |weight| weight.unsigned_abs()),
            );
        }
        root.draw(title, self.types.last().map_or("", |weight| weight.unit))
    }
}
