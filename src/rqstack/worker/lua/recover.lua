-- Put back what a supervisor and some of its workers hold: their claims, and the jobs that the workers were running.
-- Follows write.lua and is_name.lua of transport/lua, lease.lua, put_back.lua and leave_slot.lua.
--
-- KEYS[1]  rqstack:running:<supervisor>
-- KEYS[2]  rqstack:supervisors
-- ARGV[1]  'crash' counts as a crash of the job; 'again' too, in the second check of a dead supervisor; 'return' does
--          not; 'fail' abandons a job that has begun, without counting
-- ARGV[2]  how many crashes a job may have
-- ARGV[3]  '' for the caller's own workers; or the id of another supervisor, whose workers are removed if it is still
--          dead
-- ARGV[4]  seconds without a heartbeat after which a supervisor is dead
-- ARGV[5]  the supervisor that asks
-- ARGV[6]  now, as RQ writes times
-- ARGV[7]  the execution that the caller's own worker has begun last; '' for none
-- ARGV[8]  the execution that a command has stopped: its job is abandoned, without counting; '' for none
-- ARGV[9]  how many queues follow
-- ARGV[10+] queue names, then worker names
--
-- Returns a list of {worker, action, queue, job id, execution id, supervisor} of jobs that were running: action is
-- 'requeued' (at the front), or 'abandon' (it has crashed too often: nothing was changed, the caller fails it).

local call = redis.call
local FIRST, queues = 10, tonumber(ARGV[9])
local reply = {}
local SUPERVISOR = string.sub(KEYS[1], #'<prefix>stack:running:' + 1)

if ARGV[3] ~= '' then
  local last, time = write('ZSCORE', KEYS[2], ARGV[3]), call('TIME')
  local clock = tonumber(time[1]) + tonumber(time[2]) / 1000000
  if last and clock - tonumber(last) < tonumber(ARGV[4]) then return reply end
  if not last and ARGV[1] ~= 'again' then return reply end -- another supervisor was faster
  call('ZREM', KEYS[2], ARGV[3])
end

-- Whether the job of a lease may be what ended its process.
--
-- Which jobs of a dead supervisor have begun is not known. Nor is it known of which of several claimed jobs a process
-- died that had begun none: reading them may have been too much for it. None of them is counted, but each then runs
-- alone, and one that is alone counts though it has not begun: a job cannot end one process after the other for ever.
-- (Of a batch that has begun, the caller has settled all but the running job: BatchWatch.settle_ended.)
local function is_suspect(execution, jobs)
  if ARGV[1] == 'return' then return false end
  return ARGV[3] ~= '' or execution == ARGV[7] or (ARGV[1] == 'crash' and jobs == 1)
end

-- jobs  how many the lease has
local function requeue(worker, queue, id, execution, jobs)
  local job_key = '<prefix>:job:' .. id
  if not write('ZSCORE', '<prefix>:wip:' .. queue, id .. ':' .. execution) then
    -- Recorded, or canceled or deleted.
    forget_execution('<prefix>:worker:' .. worker, id, execution)
    leave_slot(id, tonumber(call('TIME')[1]), ARGV[6])
    return 'gone'
  end
  local exists = call('EXISTS', job_key) == 1
  if exists and execution == ARGV[8] then return 'abandon' end
  local suspect = is_suspect(execution, jobs)
  if exists and suspect and ARGV[1] == 'fail' then return 'abandon' end
  if exists and suspect then
    local crashes_key = '<prefix>stack:crashes:' .. id
    local seen = write('HMGET', crashes_key, 'execution', 'count')
    -- A count that no script has written is none.
    local count = tonumber(string.match(seen[2] or '', '^%d%d?%d?%d?%d?%d?$') or 0)
    if seen[1] ~= execution then
      count = count + 1
      call('HSET', crashes_key, 'count', count, 'execution', execution)
      call('EXPIRE', crashes_key, 86400)
    end
    if count >= tonumber(ARGV[2]) then
      -- One supervisor fails it. If that one dies meanwhile, the next that asks does.
      local field = 'abandoned_by:' .. execution
      local owner = call('HGET', crashes_key, field)
      if owner and owner ~= ARGV[5] and call('ZSCORE', KEYS[2], owner) then return 'other' end
      call('HSET', crashes_key, field, ARGV[5])
      return 'abandon'
    end
  end
  local runs_alone = suspect or ARGV[1] == 'crash'
  if put_back('<prefix>:worker:' .. worker, queue, id, execution, runs_alone) then return 'requeued' end
  leave_slot(id, tonumber(call('TIME')[1]), ARGV[6])
  return 'gone'
end

local function put_back_claims(owner)
  for q = FIRST, FIRST - 1 + queues do
    local key = '<prefix>:queue:' .. ARGV[q]
    while move('<prefix>stack:claim:' .. owner .. ':' .. key, key) do end
  end
end

put_back_claims(ARGV[3] ~= '' and ARGV[3] or ARGV[5])
for i = FIRST + queues, #ARGV do
  local worker = ARGV[i]
  put_back_claims(worker)
  -- The last one first, so that they are in their order at the head of the queue.
  local jobs, kept = jobs_of(write('HGET', KEYS[1], worker)), {}
  for place = #jobs, 1, -1 do
    local queue, id, execution = unpack(jobs[place])
    local action = requeue(worker, queue, id, execution, #jobs)
    if action == 'requeued' or action == 'abandon' then
      table.insert(reply, {worker, action, queue, id, execution, SUPERVISOR})
    end
    if action == 'abandon' or action == 'other' then table.insert(kept, 1, jobs[place]) end
  end
  if #kept > 0 then
    call('HSET', KEYS[1], worker, lease_of(kept))
  else
    call('HDEL', KEYS[1], worker)
    if ARGV[3] ~= '' then
      call('DEL', '<prefix>:worker:' .. worker, '<prefix>:worker:' .. worker .. ':executions')
      write('SREM', '<prefix>:workers', '<prefix>:worker:' .. worker)
      for q = FIRST, FIRST - 1 + queues do
        write('SREM', '<prefix>:workers:' .. ARGV[q], '<prefix>:worker:' .. worker)
      end
    end
  end
end
return reply
