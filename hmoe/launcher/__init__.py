"""`hmoe launch`: starts the processes of a run, watches them, and ends or restarts them together.

It knows nothing of TensorFlow. Each process is the same command with its own number.

| module | what it does |
|---|---|
| processes | how many processes run here, and under which addresses |
| gpus | which GPUs this machine has for them |
| places | which mesh axes lie inside a host, and which cross hosts |
| children | starts the processes, so that none outlives the launcher |
| watch | waits for them; ends all when one fails or a signal comes |
| verdict | which process was the cause, and the exit status |
| attempts | starts all again after a failure |
| spool | keeps standard input in a file that all of them read |
"""
