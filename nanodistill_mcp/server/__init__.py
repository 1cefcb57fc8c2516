"""What the agent sees. The only package that imports mcp.

May import: pipeline, runs, jobs, settings, errors and the light modules of teacher and student. Must stay true: it owns
nothing, pays nothing and loads no model; each reply and each error says what to call next, with arguments.
"""
