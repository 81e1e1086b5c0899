-- Statuses of people, all of one instance. KEYS: a hash for each person. ARGV: who says something ("": nobody,
-- it is read), how long a lease lasts in ms, how many may say something of one person, and where somebody
-- says something for each key "+<status>" or "-". Fields of a hash: "v" is the version of its last change;
-- "h<holder>" is "<end in ms of this server's clock>:<version at which it was said>:<status>". The answer has
-- for each key whether it has changed (0 or 1), its version, and "+<status>" or "-".
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)
local holder, valid, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local answer = {}
for i, key in ipairs(KEYS) do
  local version, count = 0, 0
  -- What was said last by anybody, and by others than the holder.
  local last, others, mine = nil, nil, nil
  local ended = {}
  local held = redis.call('HGETALL', key)
  for at = 1, #held, 2 do
    if held[at] == 'v' then
      version = tonumber(held[at + 1])
    else
      local till, said_at, said = string.match(held[at + 1], '^(%d+):(%d+):(.*)$')
      if till == nil or tonumber(till) <= now then
        ended[#ended + 1] = held[at]
      else
        count = count + 1
        local one = { at = tonumber(said_at), said = said }
        if last == nil or one.at > last.at then
          last = one
        end
        if held[at] == 'h' .. holder then
          mine = one
        elseif others == nil or one.at > others.at then
          others = one
        end
      end
    end
  end
  local changed = 0
  if holder ~= '' then
    for _, name in ipairs(ended) do
      redis.call('HDEL', key, name)
    end
    local word = ARGV[3 + i]
    local next_version = math.max(micros, version + 1)
    local after = others
    if string.sub(word, 1, 1) == '+' and (mine ~= nil or count < most) then
      local said = string.sub(word, 2)
      if mine == nil or mine.said ~= said then
        mine = { at = next_version, said = said }
      end
      redis.call('HSET', key, 'h' .. holder, string.format('%.0f:%.0f:', now + valid, mine.at) .. said)
      if after == nil or mine.at > after.at then
        after = mine
      end
    else
      redis.call('HDEL', key, 'h' .. holder)
    end
    local before = last and last.said
    if before ~= (after and after.said) then
      changed = 1
      version = next_version
      redis.call('HSET', key, 'v', string.format('%.0f', version))
    end
    last = after
    redis.call('PEXPIRE', key, valid)
  end
  answer[#answer + 1] = changed
  answer[#answer + 1] = string.format('%.0f', version)
  answer[#answer + 1] = last and ('+' .. last.said) or '-'
end
return answer
