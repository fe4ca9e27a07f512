"""What is measured, a module a library; each runs in a process of its own (`..workers`)."""
