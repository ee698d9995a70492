"""The rules that a valid plan obeys, and what each graph of it may read: `verify.py` asks all of them."""
