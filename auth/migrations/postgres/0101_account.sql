-- People. `name_lower` is what a search compares: the name lower-cased by the service, so that both databases agree; their
-- order is that of the bytes, so that a prefix is a range.
create table account (
    id uuid primary key,
    login text collate "C" not null,
    name text not null,
    name_lower text collate "C" not null,
    password_hash text not null,
    created_at_us bigint not null default (cast(extract(epoch from clock_timestamp()) * 1000000 as bigint)),
    constraint account_login unique (login)
);
create index account_name on account (name_lower, login);
