//! The operations that run on one socket, asked in turn: whoever gave a result comes last, so that no stream starves
//! another, and nobody is asked before the socket can take a result.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt};

use super::protocol::Operation;

/// What an operation has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A result, as JSON.
    Next(Arc<str>),
    /// It was refused, with the errors as a JSON array.
    Refused(Arc<str>),
    /// It has said everything.
    Ended,
}

/// An operation under way: results, or one refusal. Its end is [`Said::Ended`].
pub type Running = Pin<Box<dyn Stream<Item = Said> + Send>>;

/// Those of one socket.
#[derive(Default)]
pub struct Operations(VecDeque<(Operation, Running)>);

impl Operations {
    /// Begins one.
    pub fn start(&mut self, operation: Operation, running: Running) {
        self.0.push_back((operation, running));
    }

    /// Drops one.
    pub fn stop(&mut self, operation: Operation) {
        self.0.retain(|(other, _)| *other != operation);
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the next one has to say. Waits as long as none has anything; dropped meanwhile, it loses nothing.
    pub async fn next(&mut self) -> (Operation, Said) {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<(Operation, Said)> {
        for _ in 0..self.0.len() {
            let Some((operation, mut running)) = self.0.pop_front() else { break };
            match running.poll_next_unpin(context) {
                Poll::Ready(Some(said)) => {
                    if matches!(said, Said::Next(_)) {
                        self.0.push_back((operation, running));
                    }
                    return Poll::Ready((operation, said));
                }
                Poll::Ready(None) => return Poll::Ready((operation, Said::Ended)),
                Poll::Pending => self.0.push_back((operation, running)),
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, stream};
    use tokio::time::Instant;

    use super::*;
    use crate::socket::{
        protocol::{Action, Input, Protocol},
        subprotocol::Subprotocol,
    };

    /// Operations as the machine numbers them.
    fn numbers(count: usize) -> Vec<Operation> {
        let now = Instant::now();
        let mut protocol = Protocol::new(Subprotocol::New, now);
        protocol.handle(Input::Text(r#"{"type":"connection_init"}"#), now);
        protocol.handle(Input::Authenticated(Ok(None)), now);
        let start = |number| {
            let text = format!(r#"{{"type":"subscribe","id":"{number}","payload":{{"query":"{{a}}"}}}}"#);
            match protocol.handle(Input::Text(&text), now)[..] {
                [Action::Start(operation, _)] => operation,
                ref other => panic!("{other:?}"),
            }
        };
        (0..count).map(start).collect()
    }

    fn endless(text: &str) -> Running {
        stream::repeat(Said::Next(text.into())).boxed()
    }

    #[test]
    fn a_stream_that_always_has_something_does_not_starve_the_others() {
        let numbers = numbers(3);
        let mut operations = Operations::default();
        operations.start(numbers[0], endless("loud"));
        operations.start(numbers[1], stream::iter([Said::Next("quiet".into())]).boxed());
        operations.start(numbers[2], endless("loud too"));
        let said: Vec<_> = (0..7).map(|_| operations.next().now_or_never().expect("something")).collect();
        assert_eq!(said[1], (numbers[1], Said::Next("quiet".into())));
        assert_eq!(said[4], (numbers[1], Said::Ended));
        let of = |number| said.iter().filter(|(operation, _)| *operation == number).count();
        assert_eq!((of(numbers[0]), of(numbers[1]), of(numbers[2])), (3, 2, 2));
    }

    #[test]
    fn what_is_stopped_or_refused_says_nothing_more() {
        let numbers = numbers(2);
        let mut operations = Operations::default();
        operations.start(numbers[0], endless("loud"));
        operations
            .start(numbers[1], stream::iter([Said::Refused("[]".into()), Said::Next("late".into())]).boxed());
        operations.stop(numbers[0]);
        assert_eq!(operations.next().now_or_never(), Some((numbers[1], Said::Refused("[]".into()))));
        assert!(operations.is_empty());
        assert_eq!(operations.next().now_or_never(), None);
    }
}
