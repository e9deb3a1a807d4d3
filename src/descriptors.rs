//! How many files and connections the system lets this process have open. Beyond that nobody could be answered, not even
//! that there are too many: the bound on connections stays below.

/// Descriptors that are no client's: databases, engines, peers, the operations port, answers to those who are refused.
const OTHERS: u64 = 256;

/// Raises what this process may have open to the most that it may ask for; how many that are.
pub fn raise() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX).unwrap_or_else(|error| {
        tracing::warn!(%error, "the limit on open descriptors cannot be raised");
        rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX)
    })
}

/// The bound on connections, cut to what so many descriptors leave.
pub fn cut(connections_max: u32, descriptors: u64) -> u32 {
    let left = descriptors.saturating_sub(OTHERS).max(1);
    match u32::try_from(left) {
        Ok(left) if left < connections_max => {
            tracing::warn!(
                descriptors,
                connections = left,
                wanted = connections_max,
                "the system allows fewer connections"
            );
            left
        }
        _ => connections_max,
    }
}

#[cfg(test)]
mod tests {
    use rlimit::Resource;

    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let hard = Resource::NOFILE.get_hard().unwrap();
        Resource::NOFILE.set(hard - 1, hard).unwrap();
        assert_eq!(raise(), hard);
        assert_eq!(Resource::NOFILE.get_soft().unwrap(), hard);
    }

    #[test]
    fn connections_leave_room_for_everything_else() {
        assert_eq!(cut(19_000, 1_024), 768);
        assert_eq!(cut(19_000, 19_255), 18_999);
        assert_eq!(cut(19_000, 19_256), 19_000);
        assert_eq!(cut(500, 1_024), 500);
        assert_eq!(cut(19_000, u64::MAX), 19_000);
        assert_eq!(cut(19_000, 100), 1, "one is left even so");
    }
}
