//! What librdkafka is told where its defaults are not ours, and why.

use std::time::Duration;

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};

/// For every client.
pub(crate) fn common(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("client.id", "tidings")
        .set("socket.keepalive.enable", "true")
        // An outage is over for us soon after it is over.
        .set("reconnect.backoff.max.ms", "2000");
    // Its log lines come to us whatever the level of the `log` crate is; tracing filters them.
    config.set_log_level(RDKafkaLogLevel::Info);
    config
}

/// For the relay's producer: in order, without duplicates of its own, patient without end.
pub(crate) fn producer(mut config: ClientConfig) -> ClientConfig {
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // A batch that the broker refuses for good must not be overtaken by the next one of the same key.
        .set("enable.gapless.guarantee", "true")
        // What Kafka's own clients do: every program finds the same partition for a key.
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "2")
        .set("compression.codec", "lz4")
        .set("allow.auto.create.topics", "false")
        .set("queue.buffering.max.messages", "10000")
        // For ever: giving one up would let the next one overtake it.
        .set("message.timeout.ms", "0");
    config
}

/// For every reader.
fn reader(mut config: ClientConfig) -> ClientConfig {
    config
        // Where to begin is said explicitly; anything else is an error and no jump.
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        // What one answer of a broker may make us hold: the rest is asked for again.
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

/// For a durable consumer: one member of the group of its name.
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
        // For the consumer's lag.
        .set("statistics.interval.ms", "5000");
    config
}

/// For a tail: librdkafka wants a group's name even of a reader that never joins one.
pub(crate) fn tail(config: ClientConfig) -> ClientConfig {
    let mut config = reader(config);
    config.set("group.id", "tail").set("enable.auto.commit", "false");
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effective(config: &ClientConfig, expected: &[(&str, &str)]) {
        let native = config.create_native_config().unwrap();
        for (name, value) in expected {
            let found = native.get(name).unwrap();
            assert_eq!(found.trim_end_matches('\0'), *value, "{name}");
        }
    }

    #[test]
    fn librdkafka_reads_back_what_the_producer_needs() {
        let config = producer(common("localhost:9092"));
        effective(
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
    fn librdkafka_reads_back_what_a_consumer_needs() {
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
        effective(&member, &expected);
        effective(
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
        effective(&tail, &expected);
        effective(&tail, &[("enable.auto.commit", "false")]);
        assert!(tail.get("group.instance.id").is_none());
    }
}
