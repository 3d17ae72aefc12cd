"""Mask-and-replace diffusion over codes: its schedule and its posterior.

Gu et al. 2022 (arXiv:2111.14822). A code keeps its value, is replaced by any code, or becomes
the mask, which it stays. Only cumulative quantities are kept, so that the posterior between
any two times costs O(codes) a token: no transition matrix is ever made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor
from torch.nn import functional as F

from rdm_batch.errors import SpecError

# The published schedule: what the first and the last of the times reach.
FIRST_KEPT, LAST_KEPT = 0.99999, 0.000009
FIRST_MASKED, LAST_MASKED = 0.000009, 0.99999
_TINY = torch.finfo(torch.float32).tiny
_ROUNDING = 1e-5
"""More than sums over codes of probabilities in single precision are wrong by."""


@dataclass(frozen=True)
class MaskReplaceSchedule:
    """Hold the forward process q(x_t | x_0), for times 0 (codes as they are) to T.

    q(x_t = j | x_0) = kept[t] [j = x_0] + replaced[t] for each code j; q(x_t = mask) = masked[t].

    Attributes:
        num_codes: K; the mask is the state after the last code.
        kept: Probability, at every time, of having kept the value all along.
        masked: Probability, at every time, of being masked.
    """

    num_codes: int
    kept: Float64[np.ndarray, " times"]
    masked: Float64[np.ndarray, " times"]

    @classmethod
    def linear(cls, num_codes: int, num_times: int = 100) -> MaskReplaceSchedule:
        """Let both probabilities move linearly over the times, as published.

        Raises:
            SpecError: There are fewer than two codes or times.
        """
        for name, count in (("codes", num_codes), ("times", num_times)):
            if count < 2:
                raise SpecError("mask-and-replace diffusion", f"{count} {name}", "at least 2")
        kept = np.linspace(FIRST_KEPT, LAST_KEPT, num_times)
        masked = np.linspace(FIRST_MASKED, LAST_MASKED, num_times)
        return cls(num_codes, np.concatenate([[1.0], kept]), np.concatenate([[0.0], masked]))

    @property
    def num_times(self) -> int:
        """T, the last time: nearly every code is masked there."""
        return len(self.kept) - 1

    @property
    def mask(self) -> int:
        """The state that is no code."""
        return self.num_codes

    @property
    def replaced(self) -> Float64[np.ndarray, " times"]:
        """Probability, at every time, of being one given code after a replacement."""
        # The rounding of a difference must not go below 0.
        remaining: Float64[np.ndarray, " times"] = np.maximum(1.0 - self.kept - self.masked, 0.0)
        return remaining / self.num_codes

    def steps(self, num_steps: int) -> Int64[np.ndarray, " boundaries"]:
        """Choose the times a sampler visits: from T down to 0, as evenly as whole times are.

        Raises:
            SpecError: There are not 1 to T steps.
        """
        if not 1 <= num_steps <= self.num_times:
            raise SpecError(
                "sampling.num_steps", f"{num_steps} steps", f"1 to {self.num_times} steps"
            )
        falling = np.arange(num_steps, -1, -1, dtype=np.int64)
        return falling * self.num_times // num_steps

    def noised(
        self,
        codes: Int[Tensor, "batch position"],
        times: Int[Tensor, " batch"],
        uniform: Float64[Tensor, "batch position"],
    ) -> Int[Tensor, "batch position"]:
        """Draw x_t given x_0: each sample at its own time, one number in [0, 1) a token."""
        kept, masked, each = (
            torch.from_numpy(table).to(codes.device)[times][:, None]
            for table in (self.kept, self.masked, self.replaced)
        )
        # [0, kept): its value. [kept, kept + masked): the mask. What is left: any code.
        any_code = ((uniform - kept - masked) / each.clamp(min=1e-300)).long()
        replaced = any_code.clamp(0, self.num_codes - 1).to(codes.dtype)
        drawn = torch.where(uniform < kept + masked, torch.full_like(codes, self.mask), replaced)
        return torch.where(uniform < kept, codes, drawn)

    def posterior(
        self,
        clean: Float64[Tensor, "*rows code"],
        state: Int[Tensor, "*rows"],
        later: int | Int[Tensor, "*#rows"],
        earlier: int | Int[Tensor, "*#rows"],
    ) -> Float64[Tensor, "*rows state"]:
        """Give the probabilities of the state at an earlier time.

        The sum over x_0 of p(x_0) q(x_s | x_t, x_0), with s the earlier time and t the later.

        Args:
            clean: p(x_0), which a network predicts from the states at time t. In double
                precision: near time T kept and replaced differ by six orders.
            state: x_t, a code or the mask.
            later: t, 1 to T; one for all rows, or some for some.
            earlier: s, 0 to t - 1.

        Returns:
            Of every code, and last of the mask. Rows sum to 1 as those of ``clean`` do.
        """
        kept_t, masked_t, replaced_t = self._at(later, clean.device)
        kept_s, masked_s, replaced_s = self._at(earlier, clean.device)
        keep = kept_t / kept_s
        become_mask = 1.0 - (1.0 - masked_t) / (1.0 - masked_s)
        # The rounding of a difference must not go below 0.
        rest = 1.0 - keep - become_mask
        rest = rest.clamp(min=0.0) if isinstance(rest, Tensor) else max(rest, 0.0)
        replace = rest / self.num_codes
        is_masked = (state == self.mask)[..., None]
        own = torch.where(is_masked, 0, state[..., None]).long()
        total = clean.sum(-1, keepdim=True)
        # A masked token says nothing about x_0.
        from_mask = (kept_s * clean + replaced_s * total) * (become_mask / masked_t)
        # A code does: w(i) = p(i) / q(x_t | x_0 = i).
        weight = clean / replaced_t
        weight = weight.scatter(-1, own, clean.gather(-1, own) / (kept_t + replaced_t))
        before = kept_s * weight + replaced_s * weight.sum(-1, keepdim=True)
        from_code = replace * before
        from_code = from_code.scatter(-1, own, (keep + replace) * before.gather(-1, own))
        codes = torch.where(is_masked, from_mask, from_code)
        stay_masked = total * (masked_s / masked_t)
        return torch.cat([codes, torch.where(is_masked, stay_masked, 0.0)], dim=-1)

    def stays_masked(
        self,
        state: Int[Tensor, "*rows"],
        uniform: Float64[Tensor, "*rows"],
        later: int,
        earlier: int,
    ) -> Bool[Tensor, "*rows"]:
        """Say which tokens are masked, and will be when drawn from ``posterior`` by a number.

        The mask is the last state, so that high numbers draw it: whatever p(x_0) is.

        Args:
            state: x_t, codes or the mask.
            uniform: A number in [0, 1) of every token, where its cumulative probability is cut.
            later: t.
            earlier: s.
        """
        leaves = 1.0 - float(self.masked[earlier] / self.masked[later])
        stays: Bool[Tensor, "*rows"] = (state == self.mask) & (uniform >= leaves)
        return stays

    def surely_stays(
        self,
        log_clean: Float[Tensor, "row code"],
        state: Int[Tensor, " row"],
        uniform: Float64[Tensor, " row"],
        later: int,
        earlier: int,
        at_least: bool = False,
    ) -> Bool[Tensor, " row"]:
        """Say which tokens keep their code when drawn by a number, however the rest is divided.

        Of a token that is a code the posterior gives that code c, and e to all the others, so
        that any number from e to c draws it. c takes p(x_0) of that code alone.

        Args:
            log_clean: log p(x_0), normalized.
            state: x_t, codes or the mask; no mask is said to stay.
            uniform: As in ``stays_masked``.
            later: t.
            earlier: s.
            at_least: Whether p(x_0) may yet rise for codes that have more than half of it, and
                is unknown for others.
        """
        kept_t, masked_t, replaced_t = self._at(later, log_clean.device)
        kept_s, masked_s, replaced_s = self._at(earlier, log_clean.device)
        is_masked = state == self.mask
        own = torch.where(is_masked, 0, state).long()[:, None]
        clean = log_clean.gather(-1, own)[:, 0].double().exp()
        keep = kept_t / kept_s
        replace = max((1.0 - masked_t) / (1.0 - masked_s) - keep, 0.0) / self.num_codes
        weight = clean / (kept_t + replaced_t)
        total = (1.0 - clean).clamp(min=0.0) / replaced_t + weight
        stays = (keep + replace) * (kept_s * weight + replaced_s * total)
        # Sums of thousands of rounded numbers stand beside this one.
        others = 1.0 - stays + _ROUNDING
        sure: Bool[Tensor, " row"] = (uniform >= others) & (uniform < stays - _ROUNDING)
        sure = sure & ~is_masked
        return sure & (clean > 0.5) if at_least else sure

    def bound(
        self,
        log_clean: Float[Tensor, "batch position code"],
        codes: Int[Tensor, "batch position"],
        states: Int[Tensor, "batch position"],
        times: Int[Tensor, " batch"],
    ) -> tuple[Float[Tensor, "batch position"], Float[Tensor, "batch position"]]:
        """Compute KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) of every token, in nats.

        That of two rows of ``posterior``, in closed form: but for x_0 and x_t, all codes have the
        same true probability, so there is one sum over codes. Nothing large cancels, so that
        single precision is right to some 1e-6 nats. At time 1 it is -log p(x_0).

        Args:
            log_clean: log p(x_0), normalized.
            codes: x_0.
            states: x_t, codes or the mask.
            times: t of every sample, 1 to T.

        Returns:
            The divergence, and -log p(x_0).
        """
        at = {
            name: torch.from_numpy(table).to(log_clean)[times - 1][:, None]
            for name, table in self._bound_tables().items()
        }
        is_masked, is_clean = states == self.mask, states == codes
        places = torch.stack([codes, torch.where(is_masked, 0, states)], dim=-1)
        log_true, log_own = log_clean.gather(-1, places).unbind(-1)
        # w(i) = p(i) / q(x_t | x_0 = i), times replaced[t]: p(i), but for the state's own code. A
        # masked token says nothing about x_0: there w is p. Their sum:
        of_code = at["lowered"] * log_own.exp() - log_own.expm1()
        log_sum = torch.where(is_masked, 0.0, of_code.clamp(min=_TINY).log())
        # log of kept w(k) + replaced W: for any k the second addend, and for x_0 and x_t both.
        floor = at["log_replaced"] + log_sum
        true_lowered = torch.where(is_clean, at["log_lowered"], 0.0)
        for_true = torch.logaddexp(at["log_kept"] + log_true + true_lowered, floor)
        for_own = torch.logaddexp(at["log_kept"] + log_own + at["log_lowered"], floor)
        # Of all codes, above the floor, as if none were the state.
        above = F.softplus(log_clean + (at["log_kept"] - floor)[..., None]).sum(-1)
        own_as_any = F.softplus(at["log_kept"] + log_own - floor)
        above = torch.where(is_masked, above, above - own_as_any + for_own - floor)
        # True probabilities of a code that is neither, of x_0 and of x_t; and the logarithms of
        # kept w(k) + replaced W where p(x_0) is 1 for the true code.
        log_any = at["log_replaced"] + true_lowered
        share = torch.where(is_masked, at["from_mask"], at["from_code"])
        share = torch.where(is_clean, share * at["lowered"], share)
        stays = torch.where(is_clean, at["stays"] * at["lowered"], at["stays"])
        any_code = share * at["replaced"]
        true_code = torch.where(is_clean, share + stays, share) * (at["kept"] + at["replaced"])
        divergence = (
            any_code * (self.num_codes * (log_any - floor) - above - (log_any - for_true))
            + true_code * (at["log_kept_or_replaced"] + true_lowered - for_true)
            + torch.where(is_masked | is_clean, 0.0, stays * at["replaced"] * (log_any - for_own))
        )
        return divergence, -log_true

    def _bound_tables(self) -> dict[str, Float64[np.ndarray, " times"]]:
        """Give what ``bound`` needs of the steps from t to t - 1, for t = 1 to T."""
        kept, masked, replaced = self.kept[:-1], self.masked[:-1], self.replaced[:-1]
        later = self.replaced[1:]
        keep = self.kept[1:] / kept
        become_mask = 1.0 - (1.0 - self.masked[1:]) / (1.0 - masked)
        replace = np.maximum(1.0 - keep - become_mask, 0.0) / self.num_codes
        lowered = later / (self.kept[1:] + later)
        # No code is replaced before time 1; a logarithm that stands for zero must be finite.
        log_replaced = np.log(np.maximum(replaced, _TINY))
        return {
            "kept": kept,
            "replaced": replaced,
            "log_kept": np.log(kept),
            "log_replaced": log_replaced,
            "log_kept_or_replaced": np.log(kept + replaced),
            "lowered": lowered,
            "log_lowered": np.log(lowered),
            "from_mask": become_mask / self.masked[1:],
            "from_code": replace / later,
            "stays": keep / later,
        }

    def _at(self, time: int | Int[Tensor, "*rows"], device: torch.device) -> tuple[Any, Any, Any]:
        """Give kept, masked and replaced at a time: plain numbers, or one for each row."""
        tables = (self.kept, self.masked, self.replaced)
        found: list[Any] = [
            float(table[time])
            if isinstance(time, int)
            else torch.from_numpy(table).to(device)[time][..., None]
            for table in tables
        ]
        return found[0], found[1], found[2]
