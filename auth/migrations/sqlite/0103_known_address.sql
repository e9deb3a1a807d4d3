-- Addresses from which a user has signed in: 24 bits of a hash of the user's id and the address (IPv6: its /64 network).
create table known_address (
    user_id text not null references account (id),
    address_hash blob not null,
    seen_at_us bigint not null,
    primary key (user_id, address_hash)
);
create index known_address_seen on known_address (seen_at_us);
