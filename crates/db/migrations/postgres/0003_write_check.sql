-- Empty. A health check writes a row to it in a transaction that it rolls back, because a full disk and a server that only
-- reads are noticed by a write alone.
create table write_check (filler text not null);
