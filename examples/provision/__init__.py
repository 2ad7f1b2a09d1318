"""Provisions an environment from a YAML specification, whatever happens on the way.

::

    spec.yaml        what is wanted
    spec.py          reads it; errors name the file, the line and the field
    cloud.py         a client for the cloud, and its errors
    activities.py    one activity for each kind of resource
    workflow.py      the order in which they are made
    progress.py      what a run has done so far, from its history
    provisioner.py   the process that runs the workflow
    messages.py      what it tells and is told
    proof.py         nothing was made twice, nothing was left behind
    screen.py        what the demo prints
    processes.py     child processes
    demo.py          python -m examples.provision.demo
"""
