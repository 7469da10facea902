"""Ranks chosen by measured time: latency tables, allocation, and the correction by the whole."""
