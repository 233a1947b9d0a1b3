"""Babelrack measured against its peers, side by side: same machine, same audio, same weights, same thread count.

`python -m bench` runs everything, `python -m bench throughput --quick` one experiment on a little audio.
"""
