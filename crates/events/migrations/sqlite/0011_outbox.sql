-- Events wait here in the transaction of their cause. `autoincrement`: an id is never used twice, even after pruning.
create table outbox (
    id integer primary key autoincrement,
    event_id text not null,
    topic text not null,
    key text not null,
    version bigint not null,
    type text not null,
    payload blob not null,
    request_id text,
    traceparent text,
    shard bigint not null default 0,
    created_at_us bigint not null default (cast(unixepoch('subsec') * 1000000 as integer))
);
create index outbox_topic on outbox (topic, id);

-- How far a consumer has come, written in the transaction of the effect.
create table consumer_offset (
    consumer text not null,
    topic text not null,
    partition bigint not null,
    next_offset bigint not null,
    last_event_id text,
    epoch bigint not null default 1,
    primary key (consumer, topic, partition)
);
