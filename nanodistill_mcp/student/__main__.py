"""A student process by hand: ``python -m nanodistill_mcp.student REQUEST``, for ``mlx.launch`` to start as its ranks."""

from nanodistill_mcp.student.child import main

main()
