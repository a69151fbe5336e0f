"""Work under fire: the stack takes orders while its parts are killed, frozen, emptied and cut off.

    make chaos                                              every fault, ours beside plain Celery
    .venv/bin/python -m tests.chaos --fault flushall        one alone

``app/`` is what the stack works on, ``producer`` what it is asked, ``faults`` what happens to it, ``ledger`` what
became of it, ``report`` how that is shown.
"""
