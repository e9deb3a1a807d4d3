-- The database's clock, spelled alike in both databases: (select now_us from clock).
create view clock as select cast(unixepoch('subsec') * 1000000 as integer) as now_us;
