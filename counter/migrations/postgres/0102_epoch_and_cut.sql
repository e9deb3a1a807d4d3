-- The database that the epoch was last raised for: its cluster, timeline and tables. A copy has others (events::epoch).
-- Empty until the first start.
alter table epoch add column identity text not null default '';

-- Records that the log lost before they were applied. While there is a row, every count may be wrong. It goes when all
-- dialogs that missed events are known, and `dialog_applied.missing` names what each of them missed.
create table log_cut (
    id uuid primary key,
    topic text not null,
    partition bigint not null,
    from_offset bigint not null,
    to_offset bigint not null,
    noticed_at_us bigint not null
);
