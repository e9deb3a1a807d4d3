//! Heap profile: the memory in use, by the stacks that allocated it. The allocator notes the stack of about
//! one allocation in 512 KiB and forgets it when the memory is freed; a profile is an estimate from these.

use std::time::{Duration, SystemTime};

use jemalloc_pprof::{JemallocProfCtl, PROF_CTL};

use crate::{
    Error,
    profile::{Profile, Stack, ValueType},
};

/// Records the memory in use now. Blocks the thread.
///
/// # Errors
/// [`Error::HeapIsOff`] if the program was started without sampling, [`Error::Failed`] if the allocator
/// cannot write the samples to a temporary file.
pub(crate) fn record() -> Result<Profile, Error> {
    let control = PROF_CTL.as_ref().ok_or(Error::HeapIsOff)?;
    let mut control = control.blocking_lock();
    if !control.activated() {
        return Err(Error::HeapIsOff);
    }
    let started = SystemTime::now();
    let dumped = control.dump_profile().map_err(Error::failed)?;
    let stack = |(addresses, bytes): (Vec<usize>, f64)| {
        // The outermost comes first. All return to the instruction after their call.
        let addresses = addresses.into_iter().rev().map(|address| address.saturating_sub(1)).collect();
        Stack { addresses, thread: None, values: vec![whole(bytes)] }
    };
    let stacks = dumped.stacks.into_iter().map(|(stack, _)| (stack.addrs, stack.weight)).map(stack).collect();
    Ok(Profile {
        types: vec![ValueType { name: "inuse_space", unit: "bytes" }],
        period: period(&control),
        started,
        duration: Duration::ZERO,
        stacks,
    })
}

/// Returns the number of bytes between two samples.
fn period(control: &JemallocProfCtl) -> i64 {
    1 << control.lg_sample().min(62)
}

#[expect(clippy::cast_possible_truncation, reason = "no process has 2^63 bytes")]
fn whole(bytes: f64) -> i64 {
    bytes as i64
}
