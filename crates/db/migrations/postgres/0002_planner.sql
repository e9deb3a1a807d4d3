-- Every statement of ours finds its rows by a key, so a page read out of order is worth little more than one in order. With
-- the default of 4 the planner reads whole tables instead where a set of rows comes in as one bind, whose size it takes to be
-- 100 (docs/decisions/0008-indexes.md). Holds for connections opened from now on. Who may not change the database's settings
-- is told so by the log and loses time, nothing else.
do $$
begin
    execute format('alter database %I set random_page_cost = 1.1', current_database());
exception when insufficient_privilege then
    raise warning 'random_page_cost could not be set to 1.1 for this database: let its owner do so';
end
$$;
