"""An offline teacher and a tiny student, used by ``nanodistill-mcp demo`` and by the tests.

Nothing in the path knows them: the teacher is a loopback HTTP server reached through LiteLLM like any other, the
student a folder that MLX-LM loads.
"""
