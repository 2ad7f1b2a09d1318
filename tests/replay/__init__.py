"""Histories of one Python version, replayed by another."""
