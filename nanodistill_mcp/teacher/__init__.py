"""The paid model: prompts, calls, budget. The only package that imports litellm and instructor, and only inside functions.

May import: runs, settings, errors. Must stay true: an answer is journaled before it counts, a call is reserved before
it is made, and no text from a teacher is executed, formatted into a template's code or put into an error.
"""
