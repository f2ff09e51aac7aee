-- Remove the entries of a source that are not among those to keep.
-- KEYS: 1 next firings, 2 mark of the table, 3 prefix of entries, 4 prefix of templates, 5 prefix of states
-- ARGV: 1 source ("" for any), 2 seconds for which a state outlives its entry, 3 mark ("" for none), then ids to keep
-- Returns the ids removed.
local keep = {}
for i = 4, #ARGV do
    keep[ARGV[i]] = true
end
local removed = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    if not keep[id] and (ARGV[1] == '' or redis.call('HGET', KEYS[3] .. id, 'source') == ARGV[1]) then
        redis.call('ZREM', KEYS[1], id)
        redis.call('DEL', KEYS[3] .. id, KEYS[4] .. id)
        redis.call('EXPIRE', KEYS[5] .. id, ARGV[2])
        removed[#removed + 1] = id
    end
end
if ARGV[3] ~= '' then
    redis.call('SET', KEYS[2], ARGV[3])
end
return removed
