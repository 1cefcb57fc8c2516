#!/bin/sh
# Adds the server to Claude Code for this user, and checks that it connects. Needs ANTHROPIC_API_KEY in the environment,
# or the key of the teacher you use in its place.
set -eu
claude mcp add nanodistill --scope user --env "ANTHROPIC_API_KEY=${ANTHROPIC_API_KEY:?set the key of your teacher}" -- \
  "${1:-/path/to/.venv/bin/nanodistill-mcp}"
claude mcp list
