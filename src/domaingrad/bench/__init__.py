"""Bench: data of several domains, methods, an honest protocol, runs and reports."""
