-- Sessions, each with the lineage of its refresh tokens. All tokens of a session share their first half, its family; the
-- newest and the one before it are known by their hashes, and any other of the family was used long ago. `salt` makes the
-- newest from the one before it, so that a lost answer can be given again.
create table session (
    id uuid primary key,
    user_id uuid not null references account (id),
    family_hash bytea not null,
    newest_hash bytea not null,
    previous_hash bytea,
    previous_expires_at_us bigint,
    salt bytea,
    expires_at_us bigint not null,
    created_at_us bigint not null default (cast(extract(epoch from clock_timestamp()) * 1000000 as bigint)),
    ended_at_us bigint,
    constraint session_family_hash unique (family_hash)
);
create index session_of_user on session (user_id, created_at_us);
create index session_expires on session (expires_at_us);
create index session_ended on session (ended_at_us) where ended_at_us is not null;
