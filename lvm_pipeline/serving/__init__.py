"""The model server: an HTTP application around one trained model, reloaded when the champion changes."""
