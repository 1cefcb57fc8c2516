"""``python -m nanodistill_mcp``."""

from nanodistill_mcp.cli import main

if __name__ == "__main__":
    main()
