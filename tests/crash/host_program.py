"""A client as a process, as far as a server sees one: it starts the server as its child, in its own process group."""

import subprocess
import sys

if __name__ == "__main__":
    sys.exit(subprocess.call(sys.argv[1:]))
