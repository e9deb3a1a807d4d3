//! Encoding of `pprof`: `profile.proto` of github.com/google/pprof, compressed with gzip. Functions are named
//! here, so that a reader needs neither the program nor its symbols.

use std::{
    collections::HashMap,
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flate2::{Compression, write::GzEncoder};
use prost::Message;

use crate::{
    profile::{self, Profile, Stack},
    symbols::{Function as Symbol, Symbols},
};

/// Encodes a profile.
pub(crate) fn encode(profile: &Profile) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    let message = Encoder::default().message(profile).encode_to_vec();
    gzip.write_all(&message).and_then(|()| gzip.finish()).expect("a vector can be written")
}

#[derive(Clone, PartialEq, Message)]
struct ProfileMessage {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    name: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "8")]
    has_filenames: bool,
    #[prost(bool, tag = "9")]
    has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// Tables of the message being built. The ids of locations and functions start at 1.
#[derive(Default)]
struct Encoder {
    symbols: Symbols,
    strings: HashMap<String, i64>,
    locations: HashMap<usize, u64>,
    functions: HashMap<(i64, i64), u64>,
    message: ProfileMessage,
}

impl Encoder {
    fn message(mut self, profile: &Profile) -> ProfileMessage {
        // The format requires that the first string is empty.
        self.string("");
        let types: Vec<ValueType> = profile.types.iter().map(|one| self.value_type(*one)).collect();
        let weight = types.last().copied();
        // One mapping for the program and its libraries: it only says that all functions are named.
        let program = std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default();
        let filename = self.string(&program);
        self.message.mapping.push(Mapping {
            id: 1,
            filename,
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
        });
        for stack in &profile.stacks {
            let sample = self.sample(stack);
            self.message.sample.push(sample);
        }
        let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        ProfileMessage {
            sample_type: types,
            time_nanos: nanos(since_epoch(profile.started)),
            duration_nanos: nanos(profile.duration),
            period_type: weight,
            period: profile.period,
            default_sample_type: weight.map_or(0, |weight| weight.name),
            ..self.message
        }
    }

    fn value_type(&mut self, value: profile::ValueType) -> ValueType {
        ValueType { name: self.string(value.name), unit: self.string(value.unit) }
    }

    fn sample(&mut self, stack: &Stack) -> Sample {
        let location_id = stack.addresses.iter().map(|&address| self.location(address)).collect();
        let key = self.string("thread");
        let label = stack.thread.iter().map(|thread| Label { key, text: self.string(thread) }).collect();
        Sample { location_id, value: stack.values.clone(), label }
    }

    fn location(&mut self, address: usize) -> u64 {
        if let Some(id) = self.locations.get(&address) {
            return *id;
        }
        let functions = self.symbols.at(address).to_vec();
        let line = functions
            .iter()
            .map(|symbol| Line { function_id: self.function(symbol), line: symbol.line.into() })
            .collect();
        let id = self.locations.len() as u64 + 1;
        self.locations.insert(address, id);
        self.message.location.push(Location { id, mapping_id: 1, address: address as u64, line });
        id
    }

    fn function(&mut self, symbol: &Symbol) -> u64 {
        let name = self.string(&symbol.name);
        let filename = self.string(&symbol.file);
        let next = self.functions.len() as u64 + 1;
        let id = *self.functions.entry((name, filename)).or_insert(next);
        if id == next {
            // Without a system name: readers would take an equal one for a name to be shortened, and make
            // `::poll` of `<A as B>::poll`.
            self.message.function.push(Function { id, name, filename });
        }
        id
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(index) = self.strings.get(text) {
            return *index;
        }
        let index = i64::try_from(self.strings.len()).expect("fewer strings than bytes of memory");
        self.strings.insert(text.to_owned(), index);
        self.message.string_table.push(text.to_owned());
        index
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn stack(addresses: &[usize], thread: Option<&str>) -> Stack {
        Stack { addresses: addresses.to_vec(), thread: thread.map(str::to_owned), values: vec![2, 20] }
    }

    #[test]
    fn a_profile_is_decoded_to_the_same_stacks_with_shared_tables() {
        let profile = Profile {
            types: vec![
                profile::ValueType { name: "samples", unit: "count" },
                profile::ValueType { name: "cpu", unit: "nanoseconds" },
            ],
            period: 10,
            started: UNIX_EPOCH + Duration::from_secs(7),
            duration: Duration::from_secs(2),
            stacks: vec![stack(&[1, 2], Some("worker")), stack(&[3, 2], None)],
        };
        let mut bytes = Vec::new();
        GzDecoder::new(encode(&profile).as_slice()).read_to_end(&mut bytes).expect("gzip");
        let message = ProfileMessage::decode(bytes.as_slice()).expect("a profile");
        let text = |index: i64| message.string_table[usize::try_from(index).expect("an index")].as_str();
        assert_eq!(text(0), "");
        let types: Vec<_> = message.sample_type.iter().map(|it| (text(it.name), text(it.unit))).collect();
        assert_eq!(types, [("samples", "count"), ("cpu", "nanoseconds")]);
        assert_eq!((message.time_nanos, message.duration_nanos), (7_000_000_000, 2_000_000_000));
        assert_eq!((message.period, text(message.default_sample_type)), (10, "cpu"));
        let names = |sample: &Sample| -> Vec<&str> {
            let location = |id: &u64| message.location.iter().find(|it| it.id == *id).expect("a location");
            let function = |id: u64| message.function.iter().find(|it| it.id == id).expect("a function");
            let lines = sample.location_id.iter().flat_map(|id| &location(id).line);
            lines.map(|line| text(function(line.function_id).name)).collect()
        };
        assert_eq!(names(&message.sample[0]), ["0x1", "0x2"]);
        assert_eq!(names(&message.sample[1]), ["0x3", "0x2"]);
        assert_eq!(message.sample[0].value, [2, 20]);
        let label = message.sample[0].label[0];
        assert_eq!((text(label.key), text(label.text)), ("thread", "worker"));
        assert!(message.sample[1].label.is_empty());
        assert_eq!((message.location.len(), message.function.len()), (3, 3), "shared by the stacks");
    }
}
