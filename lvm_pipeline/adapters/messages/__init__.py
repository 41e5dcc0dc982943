"""Alerts: text (alert), what fails now (failing), what was sent (window, delivery), silent daemons (silence)."""
