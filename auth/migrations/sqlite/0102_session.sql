-- Sessions, each with the lineage of its refresh tokens. All tokens of a session share their first half, its family; the
-- newest and the one before it are known by their hashes, and any other of the family was used long ago. `salt` makes the
-- newest from the one before it, so that a lost answer can be given again.
create table session (
    id text not null primary key,
    user_id text not null references account (id),
    family_hash blob not null,
    newest_hash blob not null,
    previous_hash blob,
    previous_expires_at_us bigint,
    salt blob,
    expires_at_us bigint not null,
    created_at_us bigint not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    ended_at_us bigint,
    constraint session_family_hash unique (family_hash)
);
create index session_of_user on session (user_id, created_at_us);
create index session_expires on session (expires_at_us);
create index session_ended on session (ended_at_us) where ended_at_us is not null;
