"""The small model: training, generation, export. The only package that imports mlx, mlx_lm, gguf and llama.cpp.

May import: runs, settings, errors. Runs in a child of a job's worker, never in the server: a Metal crash or a bad file
takes that process and nothing else. ``requests`` is light and may be imported by anyone.
"""
