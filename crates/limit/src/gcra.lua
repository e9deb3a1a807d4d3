-- Takes one unit of each key, or none of any: the algorithm of gcra.rs, by the server's clock in
-- microseconds. KEYS: the limited keys. ARGV: interval and tolerance of each key. Returns the time to
-- wait, or 0 if all were taken.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local wait, tats = 0, {}
for index, key in ipairs(KEYS) do
  local interval, tolerance = tonumber(ARGV[2 * index - 1]), tonumber(ARGV[2 * index])
  local tat = math.max(tonumber(redis.call('GET', key) or 0), now) + interval
  wait = math.max(wait, tat - now - tolerance)
  tats[index] = tat
end
if wait > 0 then
  return wait
end
for index, key in ipairs(KEYS) do
  local tat = tats[index]
  redis.call('SET', key, string.format('%.0f', tat), 'PX', math.ceil((tat - now) / 1000))
end
return 0
