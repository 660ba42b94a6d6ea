"""Tables: what their columns are, and networks and noise for numbers beside categories."""
