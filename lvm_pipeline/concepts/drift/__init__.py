"""Compare a concept table with a champion's: articles, statistics, topics, permutation, compare, report."""
