"""Stages that an executor makes in other processes: `dispatch` hands them out, and `worker` makes one.

`task_files` holds the files between both, and `local_process` starts a worker on this machine.
"""
