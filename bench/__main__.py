"""`python -m bench`, or `make bench`: every figure in one table."""

from bench import (
    cheating,
    codecs,
    coordinator,
    demo,
    log,
    member,
    models,
    money,
    offpeak,
    paced,
    pages,
    path,
    processes,
    quantised,
    recipes,
    robust,
    simulation,
    stopping,
    training,
    transport,
)

for each in (
    path,
    codecs,
    simulation,
    coordinator,
    transport,
    money,
    models,
    member,
    cheating,
    recipes,
    processes,
    stopping,
    quantised,
    training,
    robust,
    paced,
    offpeak,
    log,
    pages,
    demo,
):
    for figure, value in each.figures().items():
        print(f"{each.__name__.rpartition('.')[2]:11}{figure:24}{value:10.4g}  {each.MEANING[figure]}", flush=True)
