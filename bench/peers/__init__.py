"""Adapters: what each system makes of the workloads."""
