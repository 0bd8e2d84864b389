"""`search:` of a variant: settings of its passes are tried on the parts, and the cheapest that keeps enough is taken.

space      a setting, and the passes of each part that it stands for
material   the parts and the samples, as files that a worker reads
attempt    a part with passes of some options: the unit of work, done in a process of its own, within limits
run        attempts done by threads of this process, each of which waits for such a process, or by a dask cluster
store      what was found so far, on disk, so that an interrupted search goes on
study      optuna's ask and tell: batches of settings, the Pareto front, the one that is chosen
look       all of it together

optuna says which settings to try; nothing of it is kept. Its own storages could be shared by workers that ask and tell
by themselves (DaskStorage of optuna_integration is one), but then what is tried depends on who is ready first, a worker
that dies leaves a trial that runs for ever, and the journal of one holds no result of a part that another trial needs
as well. Here settings are asked for in batches of one size, and what parts gave is kept by what it is of. So the same
search gives the same bytes with one process and with a cluster, whoever dies, and one that is begun again asks the same
questions and finds the answers.
"""
