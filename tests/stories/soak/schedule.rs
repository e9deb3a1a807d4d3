//! Schedule of faults: which, for how long and after how much undisturbed load. Drawn from a seed, so that
//! a run can be repeated.

use std::time::Duration;

use rand::{
    Rng, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};

use crate::proxy::{Links, Traffic};

/// Runs shorter than this use short outages.
const LONG_RUN_MIN: Duration = Duration::from_secs(1_200);

/// Kind of fault, as named in `FAULTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Kill,
    Pause,
    Redis,
    Kafka,
    Postgres,
    Disk,
    Restore,
    Cut,
    LogOut,
    Network,
    Repeat,
    Replay,
    Clock,
}

impl Kind {
    pub const ALL: [Self; 13] = [
        Self::Kill,
        Self::Pause,
        Self::Redis,
        Self::Kafka,
        Self::Postgres,
        Self::Disk,
        Self::Restore,
        Self::Cut,
        Self::LogOut,
        Self::Network,
        Self::Repeat,
        Self::Replay,
        Self::Clock,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Redis => "redis",
            Self::Kafka => "kafka",
            Self::Postgres => "postgres",
            Self::Disk => "disk",
            Self::Restore => "restore",
            Self::Cut => "cut",
            Self::LogOut => "logout",
            Self::Network => "network",
            Self::Repeat => "repeat",
            Self::Replay => "replay",
            Self::Clock => "clock",
        }
    }

    /// Parses a list such as `kill,kafka`; an empty one means all.
    pub fn parse_list(list: &str) -> Vec<Self> {
        if list.is_empty() {
            return Self::ALL.to_vec();
        }
        let parse = |name: &str| {
            let kind = Self::ALL.into_iter().find(|kind| kind.name() == name.trim());
            kind.unwrap_or_else(|| panic!("FAULTS: `{name}` is not one of {:?}", Self::ALL.map(Self::name)))
        };
        list.split(',').map(parse).collect()
    }
}

/// A fault with its parameters. `hold` is the time from its start to its end.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// SIGKILL of roles at the same time, and a restart after `hold`.
    Kill { roles: Vec<&'static str>, hold: Duration },
    /// SIGKILL of one role after another, each of which starts again at once, with a time of load between.
    Kills { roles: Vec<(&'static str, Duration)> },
    /// SIGSTOP of a role for longer than the relay's lease (5 s), or than a consumer's session (15 s).
    Pause { role: &'static str, hold: Duration },
    /// Redis flushed, and stopped or paused where there is a verb.
    Redis { verb: Option<&'static str>, hold: Duration },
    /// Kafka stopped, killed or paused.
    Kafka { verb: &'static str, hold: Duration },
    /// Postgres shut down in immediate mode, and started after `hold`.
    Postgres { hold: Duration },
    /// The disk of the databases full.
    Disk { hold: Duration },
    /// The counter's database restored to its state `hold` ago; with the counter running or not.
    Restore { hold: Duration, running: bool },
    /// The counter stopped for `hold`, and what it has not read deleted from the log.
    Cut { hold: Duration },
    /// Log-outs while Kafka is stopped, killed or paused.
    LogOut { verb: &'static str, hold: Duration },
    /// The connections of all roles to an engine or a service cut, or half-open: nothing arrives any more.
    Network { link: &'static str, traffic: Traffic, hold: Duration },
    /// Every event written to the log three times.
    Repeat { hold: Duration },
    /// The whole log delivered again to the consumers of a role.
    Replay { role: &'static str },
    /// The clock of a role an hour behind.
    Clock { role: &'static str, hold: Duration },
    /// SIGKILL of an engine of the production-like stack, and a start after `hold`. A primary may get a
    /// successor in the middle of that time, which it follows from then on.
    Engine { engine: &'static str, hold: Duration, successor: bool },
}

impl Fault {
    pub fn hold(&self) -> Duration {
        match self {
            Self::Kill { hold, .. }
            | Self::Pause { hold, .. }
            | Self::Redis { hold, .. }
            | Self::Kafka { hold, .. }
            | Self::Postgres { hold }
            | Self::Disk { hold }
            | Self::Restore { hold, .. }
            | Self::Cut { hold }
            | Self::LogOut { hold, .. }
            | Self::Network { hold, .. }
            | Self::Repeat { hold }
            | Self::Clock { hold, .. }
            | Self::Engine { hold, .. } => *hold,
            Self::Kills { roles } => roles.iter().map(|(_, between)| *between).sum(),
            Self::Replay { .. } => Duration::ZERO,
        }
    }

    /// Returns the number of processes that are killed with SIGKILL.
    pub fn kills(&self) -> usize {
        match self {
            Self::Kill { roles, .. } => roles.len(),
            Self::Kills { roles } => roles.len(),
            Self::Restore { running: false, .. }
            | Self::Cut { .. }
            | Self::Replay { .. }
            | Self::Engine { .. } => 1,
            Self::Clock { .. } => 2,
            _ => 0,
        }
    }

    /// Returns a line for the table.
    pub fn describe(&self) -> String {
        let seconds = self.hold().as_secs_f64();
        match self {
            Self::Kill { roles, .. } => format!("kill {} for {seconds:.1} s", roles.join("+")),
            Self::Pause { role, .. } => format!("pause {role} for {seconds:.1} s"),
            Self::Redis { verb: None, .. } => "redis flushed".to_owned(),
            Self::Redis { verb: Some(verb), .. } => format!("redis flushed, {verb} for {seconds:.1} s"),
            Self::Kafka { verb, .. } => format!("kafka {verb} for {seconds:.1} s"),
            Self::Postgres { .. } => format!("postgres aborted for {seconds:.1} s"),
            Self::Disk { .. } => format!("disk full for {seconds:.1} s"),
            Self::Restore { running, .. } => {
                let counter = if *running { "running" } else { "stopped" };
                format!("restore of {seconds:.0} s ago, counter {counter}")
            }
            Self::Cut { .. } => format!("log cut, counter stopped for {seconds:.1} s"),
            Self::LogOut { verb, .. } => format!("log-outs for {seconds:.1} s, kafka {verb} if there is one"),
            Self::Kills { roles } => format!("kill {} times, one role after another", roles.len()),
            Self::Network { link, traffic: Traffic::Cut, .. } => {
                format!("connections to {link} cut for {seconds:.1} s")
            }
            Self::Network { link, .. } => format!("connections to {link} half-open for {seconds:.1} s"),
            Self::Repeat { .. } => format!("every event three times for {seconds:.1} s"),
            Self::Replay { role } => format!("whole log again to {role}"),
            Self::Clock { role, .. } => format!("clock of {role} an hour behind for {seconds:.1} s"),
            Self::Engine { engine, successor: true, .. } => {
                format!("kill {engine} for {seconds:.1} s, with a successor")
            }
            Self::Engine { engine, .. } => format!("kill {engine} for {seconds:.1} s"),
        }
    }
}

/// Endless sequence of faults in rounds: each round has every kind once, kills twice, in random order.
pub struct Schedule {
    kinds: Vec<Kind>,
    roles: &'static [&'static str],
    random: StdRng,
    round: Vec<Kind>,
    long: bool,
    /// Number of kills, one after another, in each fault of this kind; 1 means one at the same time.
    kills_each: usize,
}

impl Schedule {
    pub fn new(
        kinds: &[Kind],
        roles: &'static [&'static str],
        seed: u64,
        time: Duration,
        kills_each: usize,
    ) -> Self {
        assert!(!kinds.is_empty(), "FAULTS names no fault");
        let random = StdRng::seed_from_u64(seed);
        let long = time >= LONG_RUN_MIN;
        Self { kinds: kinds.to_vec(), roles, random, round: Vec::new(), long, kills_each }
    }
}

/// The time of undisturbed load before the next fault, and the fault.
impl Iterator for Schedule {
    type Item = (Duration, Fault);

    fn next(&mut self) -> Option<(Duration, Fault)> {
        if self.round.is_empty() {
            self.round = self.kinds.clone();
            if self.kinds.len() > 1 && self.kinds.contains(&Kind::Kill) {
                self.round.push(Kind::Kill);
            }
            self.round.shuffle(&mut self.random);
        }
        let kind = self.round.pop().expect("the round was just filled");
        let before = self.between((5.0, 20.0), (1.0, 3.0));
        Some((before, self.draw(kind)))
    }
}

impl Schedule {
    fn draw(&mut self, kind: Kind) -> Fault {
        match kind {
            Kind::Kill if self.kills_each > 1 => {
                let roles = (0..self.kills_each).map(|_| {
                    let between = self.random.random_range(0.05..1.0);
                    (self.choose(self.roles), Duration::from_secs_f64(between))
                });
                Fault::Kills { roles: roles.collect() }
            }
            Kind::Kill => {
                let count = self.choose(&[1, 1, 1, 1, 2, 2, self.roles.len()]);
                let mut roles = self.roles.to_vec();
                roles.shuffle(&mut self.random);
                roles.truncate(count);
                Fault::Kill { roles, hold: self.between((0.0, 5.0), (0.0, 2.0)) }
            }
            Kind::Pause => {
                Fault::Pause { role: self.choose(self.roles), hold: self.between((7.0, 25.0), (6.0, 8.0)) }
            }
            Kind::Redis => {
                let verb = self.choose(&[None, Some("stop"), Some("pause"), Some("kill")]);
                let hold = self.between((2.0, 20.0), (1.0, 3.0));
                Fault::Redis { verb, hold: if verb.is_some() { hold } else { Duration::ZERO } }
            }
            Kind::Kafka => Fault::Kafka { verb: self.verb(), hold: self.between((55.0, 70.0), (6.0, 9.0)) },
            Kind::Postgres => Fault::Postgres { hold: self.between((0.0, 10.0), (0.0, 2.0)) },
            Kind::Disk => Fault::Disk { hold: self.between((10.0, 30.0), (5.0, 7.0)) },
            Kind::Restore => Fault::Restore {
                hold: self.between((60.0, 180.0), (6.0, 9.0)),
                running: self.random.random(),
            },
            Kind::Cut => Fault::Cut { hold: self.between((10.0, 40.0), (4.0, 6.0)) },
            Kind::LogOut => Fault::LogOut { verb: self.verb(), hold: self.between((15.0, 60.0), (4.0, 6.0)) },
            Kind::Network => Fault::Network {
                link: self.choose(&Links::NAMES),
                traffic: self.choose(&[Traffic::Cut, Traffic::HalfOpen]),
                hold: self.between((5.0, 40.0), (3.0, 7.0)),
            },
            Kind::Repeat => Fault::Repeat { hold: self.between((10.0, 40.0), (4.0, 7.0)) },
            Kind::Replay => Fault::Replay { role: self.choose(&["dialog", "counter"]) },
            Kind::Clock => Fault::Clock {
                role: self.choose(&["dialog", "counter", "gateway1"]),
                hold: self.between((10.0, 40.0), (4.0, 7.0)),
            },
        }
    }

    fn verb(&mut self) -> &'static str {
        self.choose(&["stop", "kill", "pause"])
    }

    fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.random).expect("the list is not empty")
    }

    /// Draws a time in seconds from the range for long runs, or from the one for short runs.
    fn between(&mut self, long: (f64, f64), short: (f64, f64)) -> Duration {
        let (least, most) = if self.long { long } else { short };
        Duration::from_secs_f64(self.random.random_range(least..most))
    }
}

#[test]
fn a_seed_reproduces_the_schedule() {
    let draw = |seed| {
        let schedule = Schedule::new(&Kind::ALL, &["a", "b"], seed, Duration::from_secs(3_600), 1);
        schedule.take(30).collect::<Vec<_>>()
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}

#[test]
fn every_round_has_every_kind() {
    let schedule = Schedule::new(&Kind::ALL, &["a", "b"], 7, Duration::from_secs(120), 1);
    let round: Vec<String> = schedule.take(Kind::ALL.len() + 1).map(|(_, fault)| fault.describe()).collect();
    let of = |word: &str| round.iter().filter(|line| line.starts_with(word)).count();
    assert_eq!((of("kill"), of("restore"), of("log cut"), of("log-outs"), of("disk")), (2, 1, 1, 1, 1));
}

#[test]
fn kills_one_after_another_are_as_many_as_asked_for() {
    let mut schedule = Schedule::new(&[Kind::Kill], &["a", "b"], 7, Duration::from_secs(120), 12);
    let (_, fault) = schedule.next().expect("it is endless");
    assert_eq!((fault.kills(), fault.describe()), (12, "kill 12 times, one role after another".to_owned()));
}
