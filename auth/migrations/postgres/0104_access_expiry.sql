-- The latest expiry of the access tokens of a session: an ended session is remembered until then, with the lifetime that was set
-- when the tokens were signed. Sessions from before have no record of it; a refresh token lives longer than an access token.
alter table session add column access_expires_at_us bigint not null default 0;
update session set access_expires_at_us = expires_at_us;
-- In the order in which gateways ask for ended sessions.
drop index session_ended;
create index session_ended on session (ended_at_us, id) where ended_at_us is not null;
