-- Shares of limits, all of one instance. KEYS: a hash for each limit. ARGV: who asks, how long a share
-- lasts in ms, how many may share one limit, and for each key what is wanted (0: it is given back).
-- A field of a hash is a holder, its value "<end in ms of this server's clock>:<demand>". The answer has
-- for each key how many share it and how much they want together.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local holder, valid, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local answer = {}
for i, key in ipairs(KEYS) do
  local demand = tonumber(ARGV[3 + i])
  local count, all = 0, 0
  local ended = {}
  local held = redis.call('HGETALL', key)
  for at = 1, #held, 2 do
    local till, wants = string.match(held[at + 1], '^(%d+):(%d+)$')
    if held[at] == holder then
      -- What it wanted before counts no more.
    elseif till == nil or tonumber(till) <= now then
      ended[#ended + 1] = held[at]
    else
      count = count + 1
      all = all + tonumber(wants)
    end
  end
  for _, name in ipairs(ended) do
    redis.call('HDEL', key, name)
  end
  if demand == 0 then
    redis.call('HDEL', key, holder)
  elseif count < most then
    redis.call('HSET', key, holder, string.format('%.0f:%.0f', now + valid, demand))
    redis.call('PEXPIRE', key, valid)
    count = count + 1
    all = all + demand
  end
  answer[#answer + 1] = count
  answer[#answer + 1] = string.format('%.0f', all)
end
return answer
