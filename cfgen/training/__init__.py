"""Scripts that train a checkpoint; see the model card for their order."""
