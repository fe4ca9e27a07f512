"""What stands at the end of the hierarchy, and the variables of single experts."""
