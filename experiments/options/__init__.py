"""Options of commands and configurations: plain data read by type, and the limits of each value."""
