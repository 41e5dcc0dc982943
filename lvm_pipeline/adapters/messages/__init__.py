"""Alert messages: their text, which were sent already, which to send now, and silence of a daemon."""
