-- The database's clock, spelled alike in both databases: (select now_us from clock).
create view clock as select cast(extract(epoch from clock_timestamp()) * 1000000 as bigint) as now_us;
