"""Alerts: text (alert), what was sent (window, delivery), silence of a daemon (silence)."""
