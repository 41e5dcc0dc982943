"""Score trained models: baselines, ranking, text, roll-out and controls; their report, leaderboard and plots.

Also measured on request: learning curves, smoothing by a language model, and preferences of raters.
"""
