"""Score trained models: scoring, baseline_scores, controls, latency, gates, evaluate; plots, report, leaderboard."""
