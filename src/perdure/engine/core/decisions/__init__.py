"""The decisions, one module a family of inputs. `decide` finds them in a table."""
