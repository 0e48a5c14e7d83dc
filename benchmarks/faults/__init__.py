"""A campaign of faults: kills, full disks, strangers' files, wrong command lines, two at once, fuzzed readers.

    python -m benchmarks.faults --quick

Every try asks the `kedge` command as a user would, in a folder and a home of its own; counted is how many were tried
and how many held. The same seed gives the same tries; each failure is printed with the line that does it again.
"""
