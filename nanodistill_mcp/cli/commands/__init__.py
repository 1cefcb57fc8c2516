"""The commands, a module each: what it takes, and what it does.

The entry loads a module's arguments before it knows whether the command is the one wanted, so a module imports nothing at
its top that takes time. What a command needs to run it imports when it runs.
"""
