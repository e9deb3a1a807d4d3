-- The database that the epoch was last raised for: its cluster, timeline and tables. A copy has others (events::epoch).
-- Empty until the first start.
alter table epoch add column identity text not null default '';
