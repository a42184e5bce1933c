"""The methods on veRL, for clusters with Ray: a plug-in, without a change of veRL (docs/verl.md).

    python -m sgpo.integrations.verl data.train_files=... actor_rollout_ref.model.path=... sgpo.delta=1.0

veRL samples with vLLM, moves weights, shards the model, keeps the optimizer and its checkpoints. What enters an update,
with which weight, and its loss are this package's own: the same functions that `sgpo train` uses.

settings   what is asked for, and what is refused
rows       from veRL's batch to rows of an update, and their way through a batch to the workers
heads      a language model head that is sharded on its own
agent      sampling, with the strategy in the prompt or without
trainer    which rows enter an update
worker     the training workers, with the engine
engine     loss and log-probabilities
reward     the verifier as veRL's reward function
data       a file of problems as veRL's data set

The first three load without veRL.
"""
