-- Cache entry of one user: the rules of entry.rs, run on the server. A test runs random histories through both.
--
-- KEYS[1] is the user's hash. With rows: `version`, `newest` (the highest rank given so far) and one field per dialog,
-- "rank unread readSeq lastSeq", where the newest activity has the highest rank. A stub: `floor` (the minimum version of
-- a fill), and `ticket` if a fill is expected. Versions are "epoch-number". The key expires TTL_MS after its creation;
-- no event extends it.
--
-- ARGV: "miss" ticket
--       "fill" ticket version (dialog unread readSeq lastSeq)*     newest activity first
--       "apply" version previous (dialog was unread readSeq lastSeq)*     newest activity first
local key = KEYS[1]

local function below(left, right)
    local left_epoch, left_number = string.match(left, '^(%d+)-(%d+)$')
    local right_epoch, right_number = string.match(right, '^(%d+)-(%d+)$')
    left_epoch, right_epoch = tonumber(left_epoch), tonumber(right_epoch)
    return left_epoch < right_epoch or (left_epoch == right_epoch and tonumber(left_number) < tonumber(right_number))
end

local function stub(floor, ticket)
    redis.call('DEL', key)
    redis.call('HSET', key, 'floor', floor)
    if ticket then redis.call('HSET', key, 'ticket', ticket) end
    redis.call('PEXPIRE', key, TTL_MS)
end

local function miss(ticket)
    local known = redis.call('HMGET', key, 'floor', 'version')
    stub(known[1] or known[2] or '0-0', ticket)
end

local function fill(ticket, version)
    local known = redis.call('HMGET', key, 'floor', 'ticket')
    if not known[1] or known[2] ~= ticket or below(version, known[1]) then return end
    local rank = (#ARGV - 3) / 4
    redis.call('DEL', key)
    redis.call('HSET', key, 'version', version, 'newest', rank)
    for at = 4, #ARGV, 4 do
        redis.call('HSET', key, ARGV[at], table.concat({rank, ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]}, ' '))
        rank = rank - 1
    end
    redis.call('PEXPIRE', key, TTL_MS)
end

-- Rows that grew move to the front, other rows keep their rank, rows without unread messages are removed.
-- The version is written first: when the server is out of memory, only the first write of a script is refused. With the
-- version last, a row could be removed and the old version stay.
local function advance(version, newest)
    redis.call('HSET', key, 'version', version)
    for at = #ARGV - 4, 4, -5 do
        local dialog, was, unread = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
        local rank = nil
        if unread > was then
            newest = newest + 1
            rank = newest
        elseif unread == 0 then
            redis.call('HDEL', key, dialog)
        else
            local row = redis.call('HGET', key, dialog)
            rank = row and string.match(row, '^%d+')
        end
        if rank then
            redis.call('HSET', key, dialog, table.concat({rank, ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]}, ' '))
        end
    end
    redis.call('HSET', key, 'newest', newest)
end

local function apply(version, previous)
    local known = redis.call('HMGET', key, 'floor', 'version', 'newest')
    local floor, held, newest = known[1], known[2], known[3]
    if floor and below(floor, version) then
        redis.call('HSET', key, 'floor', version)
    elseif held and below(held, version) then
        if held ~= previous then return stub(version) end
        advance(version, tonumber(newest))
        -- Two fields are no rows: `version` and `newest`.
        if redis.call('HLEN', key) > ROWS_MAX + 2 then stub(version) end
    end
end

if ARGV[1] == 'miss' then
    miss(ARGV[2])
elseif ARGV[1] == 'fill' then
    fill(ARGV[2], ARGV[3])
else
    apply(ARGV[2], ARGV[3])
end
