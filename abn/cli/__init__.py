"""The console command `abn VERB`: main.py finds the verbs, every other file is one."""
