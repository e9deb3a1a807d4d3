//! Failpoints: places at which a test ends the process, as a crash at that instant would. They exist only
//! with the feature `failpoints`.

/// Name of the environment variable that selects a failpoint and how often it is passed before:
/// `NAME:NUMBER`.
pub const VARIABLE: &str = "FAILPOINT";

/// Passes a failpoint. Aborts the process at the passage that [`VARIABLE`] names; nothing is dropped, flushed
/// or closed.
#[inline]
pub fn pass(name: &'static str) {
    #[cfg(feature = "failpoints")]
    active::pass(name);
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}

#[cfg(feature = "failpoints")]
mod active {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    };

    /// Selected failpoint, and the passages that are left.
    static SELECTED: LazyLock<Option<(String, AtomicU64)>> = LazyLock::new(|| {
        let text = std::env::var(super::VARIABLE).ok()?;
        let (name, number) = text.rsplit_once(':')?;
        Some((name.to_owned(), AtomicU64::new(number.parse().ok()?)))
    });

    pub(super) fn pass(name: &'static str) {
        let Some((selected, left)) = &*SELECTED else { return };
        if selected == name && left.fetch_sub(1, Ordering::Relaxed) == 1 {
            tracing::error!(name, "failpoint");
            std::process::abort();
        }
    }
}
