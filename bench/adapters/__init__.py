"""One module a system, each with the same names; they run in the system's own virtual environment.

worker_commands(processes)      the commands that start its workers
DONE                            (database, command): a count of stored results that costs Redis O(1)
enqueue(kind, value)            one job by the system's usual call; returns its handle
enqueue_bulk(kind, values)      many, by its bulk call; returns their handles
ident(handle)                   the handle as text
ready(ident)                    (database, command): true once this job's result is stored
result(ident)                   the result, by the system's own call
"""
