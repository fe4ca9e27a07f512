"""Data for a T5: tasks that need no download, from the Unicode CLDR, and a user's own files.

The CLDR is the Common Locale Data Repository: how languages write values and name things.

| module | purpose |
|---|---|
| examples | the example, its split, and random numbers that are the same on every machine |
| cldr_formats, cldr_values | generate examples of dates, numbers, ... as languages write them |
| cldr_names | generates examples of the names of territories, languages, ... |
| cldr | both generators under one name |
| scores, baselines | scores of predictions; predictions that need no learning, to compare with |
| tasks | registers the CLDR tasks with SeqIO |
| vocabularies | bytes, or a SentencePiece model |
| files, file_report | register and describe a user's own files |

`hmoe/startup/data_files/` reads and checks the files of users. This file imports nothing, so the
generators work without TensorFlow.
"""
