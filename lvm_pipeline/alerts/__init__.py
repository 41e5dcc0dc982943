"""What failed, told to people: the message, what was told already, what to send now, and a daemon's silence."""
