-- Of Postgres alone: the health check of SQLite writes to the header of the file.
select 1;
