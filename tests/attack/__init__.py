"""The product attacked: bad inputs, damage, foreign files, evil names, kills.

A bad input is one line of a table: what is called, and what has to be said.
"""
