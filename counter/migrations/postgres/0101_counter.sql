-- Raised when the past was replaced (a restore, a rebuild): versions of another epoch mean nothing. One row.
create table epoch (
    only_one bigint primary key default 1 constraint epoch_only_one check (only_one = 1),
    number bigint not null
);
insert into epoch (number) values (1);

-- What became of every message. `void` is final; `why` is refused or deleted, `reason` is for the author of a refused one.
create table ledger (
    dialog_id uuid not null,
    seq bigint not null,
    message_id uuid not null,
    author_id uuid not null,
    state text not null,
    why text,
    reason text,
    primary key (dialog_id, seq),
    constraint ledger_state check ((state = 'counted' and why is null) or (state = 'void' and why in ('refused', 'deleted')))
);

-- A person's row of a dialog. Rows are never deleted; one without joined_seq counts nothing until the join arrives.
create table member_counter (
    user_id uuid not null,
    dialog_id uuid not null,
    membership_version bigint not null default 0,
    joined_seq bigint,
    has_left boolean not null default false,
    read_seq bigint not null default 0,
    unread bigint not null default 0,
    primary key (user_id, dialog_id),
    constraint member_counter_unread check (unread >= 0)
) with (fillfactor = 70);
create index member_counter_dialog on member_counter (dialog_id, user_id);

-- One step per transaction that changes a number of the user.
create table user_version (
    user_id uuid primary key,
    version bigint not null default 0
) with (fillfactor = 70);

-- How far a dialog's events were applied; `missing` is a JSON array of [from, to], both included.
create table dialog_applied (
    dialog_id uuid primary key,
    version bigint not null default 0,
    last_seq bigint not null default 0,
    last_at_us bigint not null default 0,
    missing text not null default '[]'
) with (fillfactor = 70);
create index dialog_applied_missing on dialog_applied (dialog_id) where missing <> '[]';
