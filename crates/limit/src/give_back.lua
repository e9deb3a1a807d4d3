-- Gives back one unit of each key that gcra.lua has taken. KEYS: the limited keys. ARGV: interval and tolerance of each key.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
for index, key in ipairs(KEYS) do
  local tat = redis.call('GET', key)
  if tat then
    local left = tonumber(tat) - tonumber(ARGV[2 * index - 1])
    if left > now then
      redis.call('SET', key, string.format('%.0f', left), 'PX', math.ceil((left - now) / 1000))
    else
      redis.call('DEL', key)
    end
  end
end
return 0
