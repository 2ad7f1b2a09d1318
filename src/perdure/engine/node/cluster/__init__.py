"""A node among several over one store.

::

    members.py      who is alive, and which runs are this node's to look after
    watching.py     callers who wait for what other nodes do
    validation.py   replies that no commit carries
    questions.py    queries that only another node has the code for
    cluster.py      the `Peers` of a node, made of these
"""
