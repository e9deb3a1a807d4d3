-- One of each key, or nothing at all: the rule of gcra.rs, by this server's clock in microseconds.
-- KEYS: whose limits; ARGV: for each what one costs and what may be owed. Answers how long to wait; 0: taken.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local wait, dues = 0, {}
for index, key in ipairs(KEYS) do
  local interval, tolerance = tonumber(ARGV[2 * index - 1]), tonumber(ARGV[2 * index])
  local due = math.max(tonumber(redis.call('GET', key) or 0), now) + interval
  wait = math.max(wait, due - now - tolerance)
  dues[index] = due
end
if wait > 0 then
  return wait
end
for index, key in ipairs(KEYS) do
  local due = dues[index]
  redis.call('SET', key, string.format('%.0f', due), 'PX', math.ceil((due - now) / 1000))
end
return 0
