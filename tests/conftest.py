"""Puts what tests share, the modules beside this file, on their path: pytest adds the folder of each conftest."""
