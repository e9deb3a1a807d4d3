-- What the author had read when sending: the seq of a message of the same dialog, or 0 if not stated. The counter applies it
-- when it counts the message; it is kept so that a repair finds it.
alter table message add column read_up_to bigint not null default 0
    constraint message_read_up_to check (0 <= read_up_to and read_up_to < seq);
