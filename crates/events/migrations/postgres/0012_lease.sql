-- Who may do what only one process at a time may do, until when by this database's clock.
create table lease (
    name text primary key,
    owner uuid not null,
    epoch bigint not null,
    expires_at_us bigint not null
);
