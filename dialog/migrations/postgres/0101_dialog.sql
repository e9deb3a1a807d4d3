-- Versions are shown as "epoch-number". A restore from a backup raises the epoch: numbers given out since are void.
create table epoch (
    only_row boolean primary key default true,
    number bigint not null,
    constraint epoch_only_row check (only_row)
);
insert into epoch (number) values (1);

-- Whoever writes anything about a dialog locks its row first. `version` steps by one with every event, `head_seq` is the
-- newest message's. Two people without a title have the pair set: there is one such dialog. No index on what changes with
-- every message, so that these updates stay in their page.
create table dialog (
    id uuid primary key,
    title text,
    direct boolean not null,
    low_user_id uuid,
    high_user_id uuid,
    version bigint not null,
    head_seq bigint not null,
    created_at_us bigint not null,
    last_activity_us bigint not null,
    constraint dialog_low_user_id_high_user_id unique (low_user_id, high_user_id),
    constraint dialog_direct check (direct = (low_user_id is not null) and direct = (high_user_id is not null)),
    constraint dialog_pair check (low_user_id < high_user_id),
    constraint dialog_title check (length(title) between 1 and 64)
) with (fillfactor = 70);

-- Rows are never deleted: who has left has `has_left`. Messages with seq > joined_seq count for the person.
create table membership (
    dialog_id uuid not null references dialog,
    user_id uuid not null,
    joined_seq bigint not null,
    has_left boolean not null,
    changed_version bigint not null,
    primary key (dialog_id, user_id),
    constraint membership_dialog_id_changed_version unique (dialog_id, changed_version)
);
create index membership_user on membership (user_id, dialog_id);

-- The event MessageSent has the transaction's id as its own: while the outbox holds it, the counters cannot know it.
create table message (
    id uuid primary key,
    dialog_id uuid not null references dialog,
    seq bigint not null,
    author_id uuid not null,
    text text not null,
    status text not null default 'pending',
    failure_reason text,
    transaction_id uuid not null,
    created_at_us bigint not null,
    deleted_at_us bigint,
    changed_version bigint not null,
    constraint message_dialog_id_seq unique (dialog_id, seq),
    constraint message_dialog_id_changed_version unique (dialog_id, changed_version),
    constraint message_transaction_id unique (transaction_id),
    constraint message_status check (status in ('pending', 'committed', 'failed')),
    constraint message_failure_reason check ((status = 'failed') = (failure_reason is not null)),
    constraint message_text check (length(text) <= 4000)
);
create index message_pending on message (created_at_us, id) where status = 'pending';

-- Keys of clients, claimed for ever. What they were used with is kept, hashed: a text can be deleted.
create table message_key (
    author_id uuid not null,
    client_key text not null,
    message_id uuid not null,
    dialog_id uuid not null,
    text_hash bytea not null,
    primary key (author_id, client_key)
);
create table dialog_key (
    author_id uuid not null,
    client_key text not null,
    dialog_id uuid not null,
    request_hash bytea not null,
    primary key (author_id, client_key)
);
