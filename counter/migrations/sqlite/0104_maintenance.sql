-- Differences that `tidings reconcile --repair` has mended: what was stored, what should have been, and when.
create table repaired_drift (
    id text primary key,
    dialog_id text not null,
    kind text not null,
    user_id text,
    seq bigint,
    stored text not null,
    expected text not null,
    repaired_at_us bigint not null
) without rowid;

-- Position of `tidings rebuild --all`, so that it goes on where it was killed. One row while it runs.
create table rebuild_progress (
    only_one bigint primary key default 1 constraint rebuild_progress_only_one check (only_one = 1),
    last_dialog_id text not null,
    dialogs bigint not null,
    messages bigint not null
);
