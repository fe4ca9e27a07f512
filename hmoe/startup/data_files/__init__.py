"""A user's own data files, as far as they can be read and checked without TensorFlow.

| module | purpose |
|---|---|
| digest | the hash of a text by which inputs are divided into splits |
| lines | reads and decodes files line by line |
| scan | reads a file once from end to end: counts, checks, holds out |
| vocabulary | checks a SentencePiece model |
"""
