"""The benchmark: seven workloads, run against Perdure and, where they are installed, its peers.

::

    python -m bench                     Perdure alone, with its budgets
    python -m bench --peers FOLDER      beside the peers installed below FOLDER (see bench/README.md)

    workloads.py   W1 to W7, against anything of the shape of `Peer`
    machine.py     processes, CPU, memory, disk flushes, foreign load
    marks.py       the file in which steps leave a line, so that what ran twice shows
    library.py     runs a peer whose client and worker are one process
    remote.py      runs a peer that has a server and workers
    options.py     sizes and places, common to all
    results.py     what was measured, one JSON line each
    report.py      results as Markdown, with the budgets
    profile.py     where the time goes
    peers/         one adapter each; all but Perdure's run in their own virtual environments

Only `peers/` imports what is measured; the rest needs the standard library and Linux' /proc.
"""
