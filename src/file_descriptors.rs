//! Limit on the file descriptors of this process. Each connection needs one; a process without a free
//! descriptor cannot even accept a connection to refuse it. So the soft limit is raised to the hard
//! limit, and the limit on connections is lowered to what remains after the other descriptors.

/// Descriptors reserved for everything except client connections: databases, Redis, Kafka, peers, the
/// operations port and refused connections.
const RESERVED: u64 = 256;

/// Raises the soft limit on open files to the hard limit and returns the limit in force.
pub fn raise_limit() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot raise the limit on open files");
        rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX)
    })
}

/// Lowers a limit on connections to what `descriptors` allows, at least 1, and logs a warning when it
/// does.
pub fn cap_connections(connections_max: u32, descriptors: u64) -> u32 {
    let available = descriptors.saturating_sub(RESERVED).max(1);
    match u32::try_from(available) {
        Ok(available) if available < connections_max => {
            tracing::warn!(
                descriptors,
                connections = available,
                wanted = connections_max,
                "MAX_CONNECTIONS exceeds the limit on open files and is lowered"
            );
            available
        }
        _ => connections_max,
    }
}

#[cfg(test)]
mod tests {
    use rlimit::Resource;

    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_limit() {
        let hard = Resource::NOFILE.get_hard().unwrap();
        Resource::NOFILE.set(hard - 1, hard).unwrap();
        assert_eq!(raise_limit(), hard);
        assert_eq!(Resource::NOFILE.get_soft().unwrap(), hard);
    }

    #[test]
    fn connections_leave_the_reserved_descriptors_free() {
        assert_eq!(cap_connections(19_000, 1_024), 768);
        assert_eq!(cap_connections(19_000, 19_255), 18_999);
        assert_eq!(cap_connections(19_000, 19_256), 19_000);
        assert_eq!(cap_connections(500, 1_024), 500);
        assert_eq!(cap_connections(19_000, u64::MAX), 19_000);
        assert_eq!(cap_connections(19_000, 100), 1, "one connection is always allowed");
    }
}
