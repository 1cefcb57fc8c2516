"""The truth on disk: what a run folder holds and how it is read and written.

May import: settings, errors, the standard library, pydantic. Must stay true: a file is whole or absent (temporary file,
fsync, rename), an append counts only once it is on disk, and nothing here stores that something is "running".
"""
