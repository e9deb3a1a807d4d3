//! Running operations of one socket, polled round-robin: an operation that produced a result moves to
//! the back of the queue. A stream that always has a result therefore cannot starve the others. The
//! driver polls only while the socket can take a result.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt};

use super::protocol::Operation;
use crate::connections::answer_budget::AnswerJson;

/// Event of a running operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationEvent {
    /// A result, as JSON.
    Next(AnswerJson),
    /// The operation was rejected. Holds the errors as a JSON array.
    Rejected(Arc<str>),
    /// The operation has sent all its results.
    Completed,
}

/// Events of one operation: results, or one rejection. The end of the stream is
/// [`OperationEvent::Completed`].
pub type EventStream = Pin<Box<dyn Stream<Item = OperationEvent> + Send>>;

/// The running operations of one socket.
#[derive(Default)]
pub struct Operations(VecDeque<(Operation, EventStream)>);

impl Operations {
    /// Adds an operation.
    pub fn start(&mut self, operation: Operation, events: EventStream) {
        self.0.push_back((operation, events));
    }

    /// Drops an operation.
    pub fn stop(&mut self, operation: Operation) {
        self.0.retain(|(other, _)| *other != operation);
    }

    /// Returns true if no operation runs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits for the next event of any operation. Cancel safe.
    pub async fn next(&mut self) -> (Operation, OperationEvent) {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<(Operation, OperationEvent)> {
        for _ in 0..self.0.len() {
            let Some((operation, mut events)) = self.0.pop_front() else { break };
            match events.poll_next_unpin(context) {
                Poll::Ready(Some(event)) => {
                    // A rejection is the last event, so only a result keeps the operation in the queue.
                    if matches!(event, OperationEvent::Next(_)) {
                        self.0.push_back((operation, events));
                    }
                    return Poll::Ready((operation, event));
                }
                Poll::Ready(None) => return Poll::Ready((operation, OperationEvent::Completed)),
                Poll::Pending => self.0.push_back((operation, events)),
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

    /// Returns operations as the state machine numbers them.
    fn numbered(count: usize) -> Vec<Operation> {
        let now = Instant::now();
        let mut protocol = Protocol::new(Subprotocol::GraphqlTransportWs, now);
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

    fn endless(text: &str) -> EventStream {
        stream::repeat(OperationEvent::Next(text.into())).boxed()
    }

    #[test]
    fn a_stream_that_is_always_ready_does_not_starve_the_others() {
        let numbers = numbered(3);
        let mut operations = Operations::default();
        operations.start(numbers[0], endless("first"));
        operations.start(numbers[1], stream::iter([OperationEvent::Next("only".into())]).boxed());
        operations.start(numbers[2], endless("third"));
        let events: Vec<_> = (0..7).map(|_| operations.next().now_or_never().expect("ready")).collect();
        assert_eq!(events[1], (numbers[1], OperationEvent::Next("only".into())));
        assert_eq!(events[4], (numbers[1], OperationEvent::Completed));
        let count = |number| events.iter().filter(|(operation, _)| *operation == number).count();
        assert_eq!((count(numbers[0]), count(numbers[1]), count(numbers[2])), (3, 2, 2));
    }

    #[test]
    fn a_stopped_or_rejected_operation_emits_nothing_more() {
        let numbers = numbered(2);
        let mut operations = Operations::default();
        operations.start(numbers[0], endless("stopped"));
        let events = [OperationEvent::Rejected("[]".into()), OperationEvent::Next("late".into())];
        operations.start(numbers[1], stream::iter(events).boxed());
        operations.stop(numbers[0]);
        let rejected = OperationEvent::Rejected("[]".into());
        assert_eq!(operations.next().now_or_never(), Some((numbers[1], rejected)));
        assert!(operations.is_empty());
        assert_eq!(operations.next().now_or_never(), None);
    }
}
