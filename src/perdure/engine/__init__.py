"""The engine: what happens (`core`), where it is kept (`storage`), and the node that does both (`node`)."""
