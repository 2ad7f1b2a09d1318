"""What the parts of Perdure say to each other: frozen structs, no behaviour.

`shapes` tells whether a struct holds what it declares.
"""
