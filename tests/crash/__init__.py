"""Crash tests: a workload in a process of its own, over a real file, killed with `kill -9` again and again.

========== =============================================================================================
ledger     what is known outside of the engine: lines that survive the process that wrote them
workload   the workflows, their activities, and plans of what they do
outside    the world that the activities act on, and the clients: they go on where the last process was
victim     the program that is killed
runner     starts the victim, kills it at a chosen moment, starts it again, until the work is done
disk       what the file holds, read from a copy
checks     the guarantees, held against ledger and disk
report     what is needed to look into a violation
========== =============================================================================================
"""
