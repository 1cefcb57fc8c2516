"""What each stage does to a run, and how a run's state is read. Our own reasoning; no outside world is imported here."""
