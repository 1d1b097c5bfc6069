"""What may happen to runs, files and command lines, tried at random: nothing may be lost.

    make torture MINUTES=10
    python -m torture [--minutes 10] [--seed 0] [--kind KIND]... [--results FILE]     # in tests/

    kinds     a kind of mishap, and what comes of a try
    runs      runs as processes of their own, and how one has ended
    stops     kills, signals, full disks, other devices, two writers: the end has the bits of a run left alone
    files     damaged checkpoints, data, weights and configs: refused in one line, or read as they were
    words     command lines that make no sense: refused in one line
    soak      a long run, by itself: `python -m torture.soak`

A try survives, or it is lost and said. The same seed makes the same tries; when a process dies depends
on the clock, too.
"""
