//! Settings of librdkafka that differ from its defaults, with the reasons.

use std::time::Duration;

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};

/// Returns the settings of all clients.
pub(crate) fn common(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("client.id", "tidings")
        .set("socket.keepalive.enable", "true")
        // Reconnects soon after an outage. The default is 10 s.
        .set("reconnect.backoff.max.ms", "2000");
    // By default rdkafka derives this level from the `log` crate, which is not used. The log filter of
    // tracing applies.
    config.set_log_level(RDKafkaLogLevel::Info);
    config
}

/// Adds the settings of the relay's producer: in order, without duplicates, and without a limit on
/// retries.
pub(crate) fn producer(mut config: ClientConfig) -> ClientConfig {
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // If the broker rejects a batch permanently, later events must not overtake it: the producer
        // fails instead.
        .set("enable.gapless.guarantee", "true")
        // Default of the Java client: all programs map a key to the same partition.
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "2")
        .set("compression.codec", "lz4")
        .set("allow.auto.create.topics", "false")
        .set("queue.buffering.max.messages", "10000")
        // Never times out. If one event were given up, the next would overtake it.
        .set("message.timeout.ms", "0");
    config
}

/// Adds the settings of all readers.
fn reader(mut config: ClientConfig) -> ClientConfig {
    config
        // Start offsets are always given. An offset outside the log is an error instead of a jump.
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        // Limits the memory that one response of a broker needs. The rest is fetched by further
        // requests.
        .set("fetch.message.max.bytes", "1048576")
        .set("fetch.max.bytes", "8388608")
        .set("receive.message.max.bytes", "16777216")
        .set("queued.max.messages.kbytes", "8192")
        .set("queued.min.messages", "1000")
        .set("check.crcs", "true")
        .set("enable.auto.offset.store", "false")
        .set("allow.auto.create.topics", "false");
    config
}

/// Adds the settings of a consumer, which is a member of a consumer group.
pub(crate) fn member(
    config: ClientConfig,
    group: &str,
    instance: Option<&str>,
    session_timeout: Duration,
) -> ClientConfig {
    let mut config = reader(config);
    if let Some(instance) = instance {
        config.set("group.instance.id", instance);
    }
    config
        .set("group.id", group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", session_timeout.as_millis().to_string())
        .set("heartbeat.interval.ms", (session_timeout / 5).as_millis().to_string())
        .set("max.poll.interval.ms", "60000")
        // Statistics carry the end offsets, from which the lag is computed.
        .set("statistics.interval.ms", "5000");
    config
}

/// Adds the settings of a tail. librdkafka requires a group name even if the client never joins a group.
pub(crate) fn tail(config: ClientConfig) -> ClientConfig {
    let mut config = reader(config);
    config.set("group.id", "tail").set("enable.auto.commit", "false");
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_effective(config: &ClientConfig, expected: &[(&str, &str)]) {
        let native = config.create_native_config().unwrap();
        for (name, value) in expected {
            let found = native.get(name).unwrap();
            assert_eq!(found.trim_end_matches('\0'), *value, "{name}");
        }
    }

    #[test]
    fn librdkafka_applies_the_producer_settings() {
        let config = producer(common("localhost:9092"));
        assert_effective(
            &config,
            &[
                ("bootstrap.servers", "localhost:9092"),
                ("enable.idempotence", "true"),
                ("enable.gapless.guarantee", "true"),
                ("acks", "-1"),
                ("partitioner", "murmur2_random"),
                ("linger.ms", "2"),
                ("compression.codec", "lz4"),
                ("allow.auto.create.topics", "false"),
                ("queue.buffering.max.messages", "10000"),
                ("message.timeout.ms", "0"),
                ("socket.keepalive.enable", "true"),
                ("reconnect.backoff.max.ms", "2000"),
            ],
        );
        assert!(config.get("transactional.id").is_none());
    }

    #[test]
    fn librdkafka_applies_the_consumer_settings() {
        let expected = [
            ("auto.offset.reset", "error"),
            ("enable.auto.offset.store", "false"),
            ("isolation.level", "read_committed"),
            ("fetch.message.max.bytes", "1048576"),
            ("fetch.max.bytes", "8388608"),
            ("receive.message.max.bytes", "16777216"),
            ("queued.max.messages.kbytes", "8192"),
            ("queued.min.messages", "1000"),
            ("check.crcs", "true"),
            ("allow.auto.create.topics", "false"),
            ("socket.keepalive.enable", "true"),
            ("reconnect.backoff.max.ms", "2000"),
        ];
        let member = member(common("localhost:9092"), "counter", Some("counter-1"), Duration::from_secs(15));
        assert_effective(&member, &expected);
        assert_effective(
            &member,
            &[
                ("group.id", "counter"),
                ("group.instance.id", "counter-1"),
                ("partition.assignment.strategy", "cooperative-sticky"),
                ("session.timeout.ms", "15000"),
                ("heartbeat.interval.ms", "3000"),
                ("max.poll.interval.ms", "60000"),
                ("enable.auto.commit", "true"),
            ],
        );
        let tail = tail(common("localhost:9092"));
        assert_effective(&tail, &expected);
        assert_effective(&tail, &[("enable.auto.commit", "false")]);
        assert!(tail.get("group.instance.id").is_none());
    }
}
