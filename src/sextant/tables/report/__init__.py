"""The report: a folder of static pages made from the ledger, read without a server.

`site` writes it; `front`, `table_page`, `run_page`, `runs_page` and `changes` are its pages. Text
reaches a page through `markup.tag` alone, which escapes it.
"""
