//! The processes together: the state of the model and its steps. Every step is one transaction, one call or
//! one delivery, so all interleavings and all crashes between them are histories of the model.

use std::sync::Arc;

use stateright::{Model, Property};

use crate::{
    bounds::{Bounds, Fault, Process},
    cache::Cache,
    counter::Counter,
    device::{Device, Gateway},
    dialog::Dialog,
    log::{Log, Topic},
    properties,
};

/// Model of the saga, within its bounds.
#[derive(Debug, Clone)]
pub struct System {
    /// Bounds of the state space.
    pub bounds: Bounds,
    /// Planted fault.
    pub fault: Option<Fault>,
}

/// State of all processes, databases, the log and the device. Parts are shared between states that differ
/// in others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// Dialog.
    pub dialog: Arc<Dialog>,
    /// Counter.
    pub counter: Arc<Counter>,
    /// Event log.
    pub log: Log,
    /// Cache of the reader's counts.
    pub cache: Arc<Cache>,
    /// Gateway.
    pub gateway: Arc<Gateway>,
    /// Device of the reader.
    pub device: Arc<Device>,
    /// Number of reads so far.
    pub reads: usize,
    /// Number of cuts so far.
    pub cuts: usize,
    /// Processes that have crashed, in their order.
    pub crashed: Vec<Process>,
}

/// Service with an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Dialog.
    Dialog,
    /// Counter.
    Counter,
}

/// Step of the model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// The writer sends a message with this key, or repeats a call.
    Send(usize),
    /// The writer deletes a message.
    Delete(usize),
    /// The reader reads a dialog up to a `seq`.
    Read(usize, i64),
    /// A relay publishes a row of its outbox and deletes it.
    Relay(Service),
    /// The counter applies records of the log; the database may refuse a message.
    Count {
        /// Number of records.
        records: usize,
        /// The database refuses the first new message.
        refuses: bool,
    },
    /// The sweeper asks for a message, and the counter settles it.
    Settle {
        /// Number of the message.
        message: usize,
        /// The database refuses the message.
        refuses: bool,
    },
    /// The sweeper applies the counter's answer.
    ApplyAnswer,
    /// Dialog consumes a reply.
    ConsumeReply,
    /// The log is cut, and dialog loses the replies that it has not consumed.
    CutReplies,
    /// The cache's writer applies a change.
    WriteCache,
    /// A read of the counts misses the cache.
    Miss,
    /// A read of the counts continues.
    Load(usize),
    /// The device connects.
    Connect,
    /// The device disconnects.
    Disconnect,
    /// The gateway follows the log.
    Follow,
    /// The gateway requests a snapshot.
    RequestSnapshot,
    /// The gateway receives the snapshot.
    ReceiveSnapshot,
    /// The device takes a frame.
    TakeFrame,
    /// A process crashes and starts again. Its relay has published some rows and not deleted them.
    Crash(Process, usize),
}

impl Model for System {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            dialog: Arc::new(Dialog::new(self.bounds.dialogs, self.has_sweeper())),
            counter: Arc::new(Counter::new(self.bounds.dialogs, self.topics())),
            log: Log::default(),
            cache: Arc::new(Cache::new()),
            gateway: Arc::default(),
            device: Arc::default(),
            reads: 0,
            cuts: 0,
            crashed: Vec::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let may_add = self.may_add_step(state);
        self.user_actions(state, may_add, actions);
        self.saga_actions(state, may_add, actions);
        self.reader_actions(state, may_add, actions);
        let may_crash = |process: &&Process| may_add && !state.crashed.contains(process);
        for process in self.bounds.crashes.iter().filter(may_crash) {
            let rows = match process {
                Process::Dialog => state.dialog.outbox.len(),
                Process::Counter => state.counter.outbox.len(),
                Process::Gateway => 0,
            };
            actions.extend((0..=rows).map(|published| Action::Crash(*process, published)));
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        self.step(&mut state, &action).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(&self.bounds)
    }
}

impl System {
    fn has_sweeper(&self) -> bool {
        self.bounds.replies && self.fault != Some(Fault::NoSweeper)
    }

    /// Returns the topics of the counter that have a consumer.
    fn topics(&self) -> Vec<Topic> {
        let has_reader = self.bounds.loads + self.bounds.connections > 0;
        let replies = self.bounds.replies.then_some(Topic::Counter);
        replies.into_iter().chain(has_reader.then_some(Topic::Unread)).collect()
    }

    /// Returns true if one more optional step is within the bounds.
    fn may_add_step(&self, state: &State) -> bool {
        let State { dialog, counter, device, reads, cuts, crashed, .. } = state;
        let deletions = dialog.messages.iter().filter(|message| message.is_deleted).count();
        let resumptions = device.connections.saturating_sub(1);
        let steps = deletions + counter.refused() + reads + cuts + resumptions + crashed.len();
        steps < self.bounds.optional_steps
    }

    fn user_actions(&self, state: &State, may_add: bool, actions: &mut Vec<Action>) {
        let messages = &state.dialog.messages;
        let next = messages.last().map_or(0, |message| message.key + 1);
        // A message with a key of its own, or the last call once more.
        let last = next.checked_sub(1).filter(|_| messages.len() <= next);
        actions.extend(
            last.into_iter().chain([next]).filter(|key| *key < self.bounds.messages).map(Action::Send),
        );
        if may_add {
            actions.extend((0..self.bounds.deletions.min(messages.len())).map(Action::Delete));
        }
        if may_add && state.reads < self.bounds.reads {
            actions.extend(messages.iter().map(|message| Action::Read(message.dialog, message.seq)));
        }
    }

    fn saga_actions(&self, state: &State, may_add: bool, actions: &mut Vec<Action>) {
        let State { dialog, counter, log, .. } = state;
        for (service, rows) in
            [(Service::Dialog, dialog.outbox.len()), (Service::Counter, counter.outbox.len())]
        {
            actions.extend((rows > 0).then_some(Action::Relay(service)));
        }
        let may_refuse = counter.refused() < self.bounds.refusals && may_add;
        for refuses in [false, true].into_iter().filter(|refuses| may_refuse || !refuses) {
            let batches = self.bounds.batches.clone();
            actions.extend(batches.map(|records| Action::Count { records, refuses }));
            if dialog.answer.is_none() {
                let overdue = dialog.overdue().map(|(message, _)| message);
                actions.extend(overdue.map(|message| Action::Settle { message, refuses }));
            }
        }
        actions.extend(dialog.answer.is_some().then_some(Action::ApplyAnswer));
        if !log.replies.is_empty() {
            actions.push(Action::ConsumeReply);
            let may_cut = state.cuts < self.bounds.cuts && may_add;
            actions.extend(may_cut.then_some(Action::CutReplies));
        }
    }

    fn reader_actions(&self, state: &State, may_add: bool, actions: &mut Vec<Action>) {
        if self.bounds.loads > 0 {
            actions.extend((!state.log.cache_changes.is_empty()).then_some(Action::WriteCache));
            if state.cache.misses < self.bounds.loads {
                actions.push(Action::Miss);
            }
            actions.extend((0..state.cache.loads()).map(Action::Load));
        }
        if self.bounds.connections > 0 {
            actions.extend((!state.log.gateway_changes.is_empty()).then_some(Action::Follow));
            if state.gateway.is_connected() {
                actions.extend([Action::RequestSnapshot, Action::ReceiveSnapshot, Action::TakeFrame]);
            }
            let connections = state.device.connections;
            if connections == 0 || may_add && connections < self.bounds.connections {
                actions.push(if state.gateway.is_connected() { Action::Disconnect } else { Action::Connect });
            }
        }
    }

    /// Takes one step. Returns false if it is not possible, or changes nothing.
    fn step(&self, state: &mut State, action: &Action) -> bool {
        let log = &mut state.log;
        match action {
            Action::Send(key) => Arc::make_mut(&mut state.dialog).send(*key, self.fault),
            Action::Delete(message) => Arc::make_mut(&mut state.dialog).delete(*message),
            Action::Read(dialog, up_to) => {
                state.reads += 1;
                Arc::make_mut(&mut state.counter).read(*dialog, *up_to)
            }
            Action::Relay(Service::Dialog) => Arc::make_mut(&mut state.dialog).outbox.relay(log),
            Action::Relay(Service::Counter) => Arc::make_mut(&mut state.counter).outbox.relay(log),
            Action::Count { records, refuses } => {
                Arc::make_mut(&mut state.counter).count(log, *records, *refuses, self.fault)
            }
            Action::Settle { message, refuses } => self.settle(state, *message, *refuses),
            Action::ApplyAnswer => Arc::make_mut(&mut state.dialog).apply_answer(),
            Action::ConsumeReply => Arc::make_mut(&mut state.dialog).consume(log),
            Action::CutReplies => {
                state.cuts += 1;
                log.replies.clear();
                true
            }
            Action::WriteCache => Arc::make_mut(&mut state.cache).write(log, self.fault),
            Action::Miss => Arc::make_mut(&mut state.cache).miss(),
            Action::Load(index) => Arc::make_mut(&mut state.cache).load(*index, &state.counter, self.fault),
            Action::Connect => Arc::make_mut(&mut state.gateway).connect(Arc::make_mut(&mut state.device)),
            Action::Disconnect => Arc::make_mut(&mut state.gateway).disconnect(),
            Action::Follow => Arc::make_mut(&mut state.gateway).follow(log),
            Action::RequestSnapshot => {
                let is_stale = self.fault == Some(Fault::StaleSnapshot) && state.device.version.is_some();
                let cached = state.cache.unread().filter(|_| is_stale);
                let counts = cached.unwrap_or_else(|| state.counter.unread().clone());
                Arc::make_mut(&mut state.gateway).request(counts)
            }
            Action::ReceiveSnapshot => Arc::make_mut(&mut state.gateway).reply(),
            Action::TakeFrame => {
                let device = Arc::make_mut(&mut state.device);
                Arc::make_mut(&mut state.gateway).take(device, self.fault)
            }
            Action::Crash(process, published) => self.crash(state, *process, *published),
        }
    }

    /// Settles a message at the counter. The answer is in flight afterwards.
    fn settle(&self, state: &mut State, message: usize, refuses: bool) -> bool {
        let mut overdue = state.dialog.overdue();
        let Some((_, sent)) = overdue.find(|(number, _)| *number == message) else { return false };
        drop(overdue);
        let counter = Arc::make_mut(&mut state.counter);
        let Some(outcome) = counter.settle(&sent, refuses, self.fault) else { return false };
        Arc::make_mut(&mut state.dialog).answer = Some((message, outcome));
        true
    }

    /// Returns true if one question of the sweeper settles every message that is overdue.
    pub fn one_sweep_settles(&self, state: &State) -> bool {
        let mut overdue = state.dialog.overdue().map(|(message, _)| message);
        overdue.all(|message| {
            let mut outcomes = [false, true].into_iter().filter_map(|refuses| {
                let mut next = state.clone();
                self.settle(&mut next, message, refuses).then_some(next)
            });
            outcomes.all(|mut next| {
                Arc::make_mut(&mut next.dialog).apply_answer();
                let mut left = next.dialog.overdue();
                left.all(|(number, _)| number != message)
            })
        })
    }

    /// Returns true if no service has anything to do.
    pub fn is_at_rest(&self, state: &State) -> bool {
        let State { dialog, counter, log, .. } = state;
        dialog.outbox.len() + counter.outbox.len() == 0
            && counter.is_at_end(log)
            && log.replies.is_empty()
            && dialog.answer.is_none()
            && dialog.overdue().next().is_none()
    }

    fn crash(&self, state: &mut State, process: Process, published: usize) -> bool {
        state.crashed.push(process);
        state.crashed.sort();
        let log = &mut state.log;
        match process {
            Process::Dialog => Arc::make_mut(&mut state.dialog).crash(published, log, self.fault),
            Process::Counter => {
                Arc::make_mut(&mut state.counter).crash(published, log, self.fault);
                Arc::make_mut(&mut state.cache).crash(log);
                Arc::make_mut(&mut state.gateway).fail_request();
            }
            Process::Gateway => Arc::make_mut(&mut state.gateway).crash(log),
        }
        true
    }
}
