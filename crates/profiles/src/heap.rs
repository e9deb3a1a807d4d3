//! Heap profile: the memory in use, by the stacks that allocated it. The allocator notes the stack of about
//! one allocation in 512 KiB and forgets it when the memory is freed; a profile is an estimate from these.

use std::time::{Duration, SystemTime};

use jemalloc_pprof::{JemallocProfCtl, PROF_CTL};

use crate::{
    Error,
    profile::{Profile, Stack, ValueType},
    symbols::Symbols,
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
    let mut symbols = Symbols::default();
    let stacks = dumped.stacks.into_iter().map(|(stack, _)| {
        // The outermost comes first. All return to the instruction after their call.
        let addresses = stack.addrs.into_iter().rev().map(|address| address.saturating_sub(1));
        let mut addresses: Vec<usize> = addresses.collect();
        remove_allocator(&mut addresses, &mut symbols);
        Stack { addresses, thread: None, values: vec![whole(stack.weight)] }
    });
    let stacks = stacks.collect();
    Ok(Profile {
        types: vec![ValueType { name: "inuse_space", unit: "bytes" }],
        period: period(&control),
        started,
        duration: Duration::ZERO,
        stacks,
    })
}

/// Removes the innermost frames, those of the allocator: they are the same on every stack.
fn remove_allocator(addresses: &mut Vec<usize>, symbols: &mut Symbols) {
    let is_caller = |address: &usize| !symbols.at(*address).last().is_some_and(|it| is_allocator(&it.name));
    if let Some(caller) = addresses.iter().position(is_caller) {
        addresses.drain(..caller);
    }
}

fn is_allocator(name: &str) -> bool {
    const ENTRIES: [&str; 9] = [
        "malloc",
        "calloc",
        "realloc",
        "mallocx",
        "rallocx",
        "do_rallocx",
        "aligned_alloc",
        "posix_memalign",
        "memalign",
    ];
    ENTRIES.contains(&name)
        || ["prof_", "_rjem_", "<tikv_jemallocator::", "__rustc::__rust_"]
            .iter()
            .any(|start| name.starts_with(start))
}

/// Returns the number of bytes between two samples.
fn period(control: &JemallocProfCtl) -> i64 {
    1 << control.lg_sample().min(62)
}

#[expect(clippy::cast_possible_truncation, reason = "no process has 2^63 bytes")]
fn whole(bytes: f64) -> i64 {
    bytes as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_the_allocator_are_known_by_their_names() {
        for name in [
            "malloc",
            "_rjem_je_malloc_default",
            "prof_backtrace_impl",
            "<tikv_jemallocator::Jemalloc as A>::alloc",
        ] {
            assert!(is_allocator(name), "{name}");
        }
        for name in ["sqlite3Malloc", "alloc::alloc::alloc", "profiles::heap::record"] {
            assert!(!is_allocator(name), "{name}");
        }
    }
}
