"""From rewards, correctness and lengths to weights, alpha and the target: pure functions of tensors.

    A_i    = (R_i - mean R) / (std R + 1e-6)                                            below Eq. 1
    w_i    = A_i / (B G |o_i|)                          a token of the i-th completion, Eq. 1
    alpha  = clip( a0 (p_guide - p_auto + gamma) / (p_auto + gamma), 0, a_max )         Eq. 6
    alpha  = clip( A of the target among the autonomous completions, 0, a_max )         Eq. 8
    g+     = argmax over the correct guided completions of sum_t log pi(g_t | q, g_<t)  Eq. 4
    v_k    = alpha / (B K |g_k|)                        a token of the k-th of K targets, Eq. 2, 3 and 5

B is the number of problems of the update, G that of the completions of a group. Every normaliser is known before the
update, so the loss of a batch is a sum over tokens, however its rows are cut into micro-batches.

Decisions, where the paper is silent: std is unbiased; a group with equal rewards has A = 0, exactly, without the noise
of a rounded mean; Eq. 6 to the letter gives 0.5 for (0, 0) and 0.045 for (1, 1), and that alpha is 0 without a correct
guided completion is for the caller to decide; Eq. 4 is the literal sum, which favours short completions.

No function knows of records, options or processes: whoever has rewards and lengths can call them, in any trainer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # methods are loaded without torch, see sgpo.methods.options
    from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """The same values in float32, or in float64 if they are. [...] -> [...]"""
    return values if values.is_floating_point() and values.dtype.itemsize >= 4 else values.float()


def group_advantages(rewards: Tensor, *, std: bool = True) -> Tensor:
    """A_i of each completion of one group, divided by the std or not. [G] -> [G]"""
    rewards = at_least_float32(rewards)
    if rewards.numel() < 2 or bool(rewards.max() == rewards.min()):
        return rewards.new_zeros(rewards.shape)
    centred = rewards - rewards.mean()
    return centred / (rewards.std(correction=1) + 1e-6) if std else centred


def share_of_token(lengths: Tensor, *, completions: int, num_problems: int) -> Tensor:
    """1 / (B G |o_i|): what a token counts if problems, completions and tokens count alike. [N] -> [N]"""
    return 1.0 / (lengths.double() * (num_problems * completions))


def surrogate_weights(rewards: Tensor, lengths: Tensor, *, num_problems: int, std: bool = True) -> Tensor:
    """w_i, with the sign of the advantage, on which clipping depends. rewards [G], lengths [G] -> [G]"""
    shares = share_of_token(lengths, completions=len(lengths), num_problems=num_problems)
    return group_advantages(rewards, std=std) * shares


def pass_rate(correct: Tensor) -> Tensor:
    """Share of the completions that are correct; 0 of an empty group. bool [..., G] -> [...]"""
    return correct.double().sum(-1) / max(correct.shape[-1], 1)


def adaptive_weight(
    p_auto: Tensor, p_guide: Tensor, *, a0: float = 0.5, gamma: float = 0.1, a_max: float = 0.8
) -> Tensor:
    """alpha of Eq. 6, from the pass rates of the autonomous and of the guided group. [...], [...] -> [...]

    Raises ValueError for what is no rate.
    """
    for name, rate in (("p_auto", p_auto), ("p_guide", p_guide)):
        if not bool(((rate >= 0.0) & (rate <= 1.0)).all()):
            raise ValueError(f"{name} is a share of correct completions and lies in [0, 1], not {rate.tolist()}")
    return (a0 * (p_guide - p_auto + gamma) / (p_auto + gamma)).clamp(0.0, a_max)


def group_advantage_weight(correct: Tensor, *, a_max: float = 0.8) -> Tensor:
    """alpha of Eq. 8: the advantage of a correct target among the autonomous completions. bool [G] -> scalar"""
    with_target = correct.new_ones(len(correct) + 1).double()
    with_target[1:] = correct
    return group_advantages(with_target)[0].clamp(0.0, a_max)


def select_target(logprob_sums: Tensor) -> int:
    """Eq. 4: index of the correct guided completion likeliest without the strategy; the first of equals. [C] -> int

    ``logprob_sums[j]`` is sum_t log pi(g_t | q, g_<t); divided by the lengths, the choice is by the mean over tokens.

    Raises ValueError for none, and for a sum that is not a number.
    """
    if not len(logprob_sums):
        raise ValueError("no correct guided completion to select from; a problem without one has no target")
    if bool(logprob_sums.isnan().any()):
        raise ValueError(f"a log-probability is not a number: {logprob_sums.tolist()}")
    # Not argmax, which may return any of equals.
    return int((logprob_sums == logprob_sums.max()).nonzero()[0])


def target_weights(alpha: float, lengths: Tensor, *, num_problems: int) -> Tensor:
    """v_k of each of the targets of one problem. lengths [K] -> [K]"""
    return alpha * share_of_token(lengths, completions=len(lengths), num_problems=num_problems)


def importance_weights(old_logprobs: Tensor, sampler_logprobs: Tensor, *, cap: float) -> Tensor:
    """min(cap, pi_old / pi_sampler): the sampling engine has not quite the same policy. [T], [T] -> [T]

    By token, not by sequence: under nucleus sampling the ratio of a whole sequence is far from 1 whatever the engine.
    """
    return (old_logprobs.double() - sampler_logprobs.double()).exp().clamp(max=cap)
