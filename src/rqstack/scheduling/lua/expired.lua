-- Take schedulers whose record has expired out of the index, and what is no scheduler. Some at a time: anybody may have
-- filled the index. Follows transport/lua/write.lua.
--
-- KEYS[1]  the index, a set of keys
--
-- ARGV[1]  how a scheduler's key begins
-- ARGV[2]  how many to look at

for _, key in ipairs(write('SRANDMEMBER', KEYS[1], ARGV[2])) do
  local is_scheduler = string.sub(key, 1, #ARGV[1]) == ARGV[1] and redis.call('TYPE', key).ok == 'hash'
  if not is_scheduler then
    redis.call('SREM', KEYS[1], key)
  end
end
