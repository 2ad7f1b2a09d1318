"""Chaos: several processes over one PostgreSQL database with a standby, while all of them are killed and stopped.

========== =============================================================================================
database   a primary and its synchronous standby: killed, suspended, failed over
workload   the workflows, their activities, and an endless sequence of orders, from a seed
outside    the world that the activities act on: a log of what they did, and counts that all processes share
clients    who want something: in each process some, and what one was not told, another asks again
worker     the program: engine, worker and clients, in a slot of its own
faults     what goes wrong and when, from a seed
runner     starts everything, makes the faults, ends them, and waits until all work is done
checks     the guarantees, held against the log and the database
recovery   how long things took after a fault
report     what was done, what was checked, and what is needed to look into a violation
========== =============================================================================================

The words of the log (`tests.crash.ledger`), most of what workflows and clients do (`tests.crash.workload`, `clients`)
and a part of the checks are those of the crash tests.
"""
