"""Checks of a configuration before TensorFlow is loaded: each module knows one kind of mistake.

| module | what it finds |
|---|---|
| imports | modules that are not there, or are paths |
| macros | macros that nothing defines, or nothing reads |
| names | classes of hmoe and arguments of theirs that do not exist |
| scopes | scopes and objects that nothing in the run is built with |
| arguments | values of a wrong type or out of range |
| run_arguments | the same for the arguments of `utils.run` that need more than one rule |
| mesh | mesh shapes, layout rules and devices that do not fit |
| input_files | files to answer, to score or to begin from that are not there |
| modes | modes of other commands; configurations that lack a part |
| processes | a mesh, a master or an input that many processes cannot share |
| master | an address that nobody answers |
"""
