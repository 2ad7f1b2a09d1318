"""What the parts of Perdure say to each other: frozen structs, no behaviour."""
