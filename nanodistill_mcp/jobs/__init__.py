"""Work that outlives the chat: locks, launching, supervision. The only package that imports psutil and subprocess.

May import: runs, settings, errors. Must stay true: a kernel lock, not a pid or a heartbeat, says whether a job lives;
a pid is only ever used to signal, and only after its identity was checked while its lock is held.
"""
