"""Data for a T5: CLDR tasks that need no download, and a user's own files.

| module | what it does |
|---|---|
| examples | the example, its split, and numbers drawn the same everywhere |
| cldr_formats, cldr_names | generators of examples, pure Python on babel |
| cldr | both of them under one name |
| scores, baselines | scores, and what a model has to beat |
| tasks | registers the CLDR tasks with SeqIO |
| vocabularies | bytes, or a SentencePiece model |
| files, lines | registers a user's own files, and reads them line by line |

This file imports nothing, so that the generators are usable without TensorFlow.
"""
