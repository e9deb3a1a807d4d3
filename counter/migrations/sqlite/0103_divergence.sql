-- Messages that claim a seq that the ledger has given to another message. A row is written with the message's dead letter, so
-- that a repeated event or settlement writes no second one.
create table divergence (
    dialog_id text not null,
    seq bigint not null,
    message_id text not null,
    found_at_us bigint not null,
    primary key (dialog_id, seq, message_id)
) without rowid;
