#!/bin/sh
# Adds the server to Claude Code for this user, and checks that it connects. The teacher's key is taken from the environment
# that Claude Code is started in.
set -eu
claude mcp add nanodistill --scope user -- "${1:-/path/to/.venv/bin/nanodistill-mcp}" serve
claude mcp list
