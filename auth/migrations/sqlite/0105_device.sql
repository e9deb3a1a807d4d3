-- What the list of a user's sessions shows of each: the name that the user gave the device, the user agent of its client, and
-- the last refresh. All three are null in sessions from before and in those of an older build, which knows none of them; the
-- last use of a session that was never refreshed is its sign-in.
alter table session add column device_name text;
alter table session add column user_agent text;
alter table session add column refreshed_at_us bigint;
