"""What makes and checks the repository, and is not installed."""
