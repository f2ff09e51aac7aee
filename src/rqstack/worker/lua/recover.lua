-- Put back what a supervisor and some of its workers hold: their claims, and the jobs that the workers were running.
-- Follows lease.lua and put_back.lua.
--
-- KEYS[1]  rqstack:running:<supervisor>
-- KEYS[2]  rqstack:supervisors
-- ARGV[1]  'crash' counts as a crash of the job; 'again' too, in the second check of a dead supervisor; 'return' does
--          not; 'fail' abandons the job without counting
-- ARGV[2]  how many crashes a job may have
-- ARGV[3]  '' for the caller's own workers; or the id of another supervisor, whose workers are removed if it is still
--          dead
-- ARGV[4]  seconds without a heartbeat after which a supervisor is dead
-- ARGV[5]  the supervisor that asks
-- ARGV[6]  how many queues follow
-- ARGV[7+] queue names, then worker names
--
-- Returns a list of {worker, what, queue, job id, execution id, supervisor} of jobs that were running: what is
-- 'requeued' (at the front), or 'abandon' (it has crashed too often: nothing was changed, the caller fails it).

local call = redis.call
local queues = tonumber(ARGV[6])
local reply = {}
local SUPERVISOR = string.sub(KEYS[1], #'<prefix>stack:running:' + 1)

if ARGV[3] ~= '' then
  local last, time = call('ZSCORE', KEYS[2], ARGV[3]), call('TIME')
  local clock = tonumber(time[1]) + tonumber(time[2]) / 1000000
  if last and clock - tonumber(last) < tonumber(ARGV[4]) then return reply end
  if not last and ARGV[1] ~= 'again' then return reply end -- another supervisor was faster
  call('ZREM', KEYS[2], ARGV[3])
end

-- has_begun  whether the job may have begun
local function requeue(worker, queue, id, execution, has_begun)
  local job_key = '<prefix>:job:' .. id
  if not call('ZSCORE', '<prefix>:wip:' .. queue, id .. ':' .. execution) then
    -- Recorded, or canceled or deleted: then RQ's cleaning releases a slot that the job may have of a rate limit.
    forget_execution('<prefix>:worker:' .. worker, id, execution)
    return 'gone'
  end
  local exists = call('EXISTS', job_key) == 1
  if exists and has_begun and ARGV[1] == 'fail' then return 'abandon' end
  if exists and has_begun then
    local crashes_key = '<prefix>stack:crashes:' .. id
    local seen = call('HGET', crashes_key, 'execution')
    if seen ~= execution then
      call('HINCRBY', crashes_key, 'count', 1)
      call('HSET', crashes_key, 'execution', execution)
      call('EXPIRE', crashes_key, 86400)
    end
    if tonumber(call('HGET', crashes_key, 'count')) >= tonumber(ARGV[2]) then
      -- One supervisor fails it. If that one dies meanwhile, RQ's own cleaning fails the job.
      call('HSETNX', crashes_key, 'abandoned_by:' .. execution, ARGV[5])
      return call('HGET', crashes_key, 'abandoned_by:' .. execution) == ARGV[5] and 'abandon' or 'other'
    end
  end
  local is_back = put_back('<prefix>:worker:' .. worker, queue, id, execution, has_begun)
  return is_back and 'requeued' or 'gone'
end

local function put_back_claims(owner)
  for q = 7, 6 + queues do
    local key = '<prefix>:queue:' .. ARGV[q]
    while call('LMOVE', '<prefix>stack:claim:' .. owner .. ':' .. key, key, 'RIGHT', 'LEFT') do end
  end
end

put_back_claims(ARGV[3] ~= '' and ARGV[3] or ARGV[5])
for i = 7 + queues, #ARGV do
  local worker = ARGV[i]
  put_back_claims(worker)
  -- The last one first, so that they are in their order at the head of the queue.
  local jobs, kept = jobs_of(call('HGET', KEYS[1], worker)), {}
  -- Of a batch that has begun, the caller has settled all but the running job (BatchWatch.settle_ended). What is known of
  -- a dead supervisor's is less.
  local has_begun = ARGV[1] ~= 'return' and (ARGV[3] ~= '' or #jobs < 2)
  for place = #jobs, 1, -1 do
    local queue, id, execution = unpack(jobs[place])
    local what = requeue(worker, queue, id, execution, has_begun)
    if what == 'requeued' or what == 'abandon' then
      table.insert(reply, {worker, what, queue, id, execution, SUPERVISOR})
    end
    if what == 'abandon' or what == 'other' then table.insert(kept, 1, jobs[place]) end
  end
  if #kept > 0 then
    call('HSET', KEYS[1], worker, lease_of(kept))
  else
    call('HDEL', KEYS[1], worker)
    if ARGV[3] ~= '' then
      call('DEL', '<prefix>:worker:' .. worker, '<prefix>:worker:' .. worker .. ':executions')
      call('SREM', '<prefix>:workers', '<prefix>:worker:' .. worker)
      for q = 7, 6 + queues do
        call('SREM', '<prefix>:workers:' .. ARGV[q], '<prefix>:worker:' .. worker)
      end
    end
  end
end
return reply
