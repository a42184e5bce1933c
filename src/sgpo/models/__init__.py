"""Models: what a checkpoint holds, its weights, adapters, floating types, passes without dropout."""
