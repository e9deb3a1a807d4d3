-- Of Postgres alone: SQLite takes an index wherever there is one.
select 1;
