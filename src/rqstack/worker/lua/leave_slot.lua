-- Give back the slot of a run that is lost, and not to be repeated: the function leave_slot of recover.lua. Follows
-- stale_slot.lua.
--
-- The lease does not say which limit the run had. The record of its job may be gone, or name another limit by now; then
-- all limits are looked through, which is rare.
--
-- id              the job's id
-- seconds, text   as in fill_slots

local function has_slot(limit)
  return type(redis.pcall('ZSCORE', '<prefix>:rl:' .. limit .. ':allowed', id)) == 'string'
end

local named = redis.pcall('HGET', '<prefix>:job:' .. id, 'rate_limit_key')
if type(named) == 'string' and has_slot(named) then return release_stale_slot(id, named, seconds, text) end
for _, limit in ipairs(write('SMEMBERS', '<prefix>:rl-keys')) do
  if has_slot(limit) then release_stale_slot(id, limit, seconds, text) end
end
