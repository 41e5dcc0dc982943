"""Compare a concept table with a champion's: articles, statistics, permutation, compare, report."""
