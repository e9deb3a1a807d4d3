-- Events wait here in the transaction of their cause until the relay has them acknowledged.
create table outbox (
    id bigint generated always as identity primary key,
    event_id uuid not null,
    topic text not null,
    key text not null,
    version bigint not null,
    type text not null,
    payload bytea not null,
    request_id text,
    traceparent text,
    shard bigint not null default 0,
    created_at_us bigint not null default (cast(extract(epoch from clock_timestamp()) * 1000000 as bigint))
);

-- How far a consumer has come, written in the transaction of the effect.
create table consumer_offset (
    consumer text not null,
    topic text not null,
    partition bigint not null,
    next_offset bigint not null,
    last_event_id uuid,
    epoch bigint not null default 1,
    primary key (consumer, topic, partition)
);
