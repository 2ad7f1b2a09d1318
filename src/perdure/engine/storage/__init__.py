"""Where the journal and its indexes are kept: one narrow protocol (`api`), one module an implementation."""
