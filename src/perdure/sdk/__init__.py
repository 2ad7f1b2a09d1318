"""What user code touches: definitions, the workflow runtime, activities, the client and the worker.

Knows the model, never the engine: they meet in the Service protocol (`model.requests`).
"""
