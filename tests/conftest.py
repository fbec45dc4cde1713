"""Puts what tests share, tests/fleet.py, on their path: pytest adds the folder of each conftest."""
