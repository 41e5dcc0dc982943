"""Trials compared with each other: the plan and its study, refinements, ensembles, and the choice of the champion."""
