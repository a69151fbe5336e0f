"""Benchmarks: ratios of things run side by side on this machine. Never a timed test.

``make bench`` is compare.py: what it measures is in rows.py, what it compares in columns.py and peers/, what it writes
in report.py. One measurement is a run.py; drive.py sends the tasks, each notes itself by effects.py, web.py has the
views, client.py asks for them without wrk, proxy.py makes Redis far. The other files measure one thing each.
"""
