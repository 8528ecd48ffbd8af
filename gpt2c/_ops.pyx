# cython: language_level=3
"""placeholder until the kernels' test door is written"""
