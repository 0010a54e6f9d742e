"""What label transfer learns from cells of the reference that are held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from scssl._neighbors import Index
from scssl._random import derive_generator

from ._protocol import rank_in_class
from ._scores import calibration_error, reliability

_FOLDS = 5


@dataclass
class Platt:
    """Probability that a label is right, from its share of the votes :cite:p:`Platt1999`.

    A logistic function of the logit of the share, whose slope is never below zero.
    """

    slope: float
    intercept: float
    n_neighbors: int

    @classmethod
    def fit(cls, share: np.ndarray, correct: np.ndarray, n_neighbors: int) -> Platt:
        """Fit to votes of cells whose label is known."""
        from sklearn.linear_model import LogisticRegression

        n_right = int(correct.sum())
        n_wrong = len(correct) - n_right
        # Targets a little off 0 and 1, as if each had been seen once more: all may be right.
        target = np.where(correct, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
        x = _logit(share, n_neighbors)[:, None]
        fitted = LogisticRegression(C=1e4, max_iter=1000).fit(
            np.concatenate([x, x]),
            np.repeat([1, 0], len(x)),
            sample_weight=np.concatenate([target, 1 - target]),
        )
        slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
        if slope < 0:
            slope, intercept = 0.0, float(np.log(target.mean() / (1 - target.mean())))
        return cls(slope, intercept, n_neighbors)

    def __call__(self, share: np.ndarray) -> np.ndarray:
        """Probabilities."""
        z = self.slope * _logit(share, self.n_neighbors) + self.intercept
        probability: np.ndarray = 1 / (1 + np.exp(-z))
        return probability


def _logit(share: np.ndarray, n_neighbors: int) -> np.ndarray:
    # As if half a vote more had been cast on either side: a share of 1 is not certain.
    smooth = (share * n_neighbors + 0.5) / (n_neighbors + 1)
    logit: np.ndarray = np.log(smooth / (1 - smooth))
    return logit


def vote(distances: np.ndarray, labels: np.ndarray, n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Winning label of each cell and its share of the votes, which weigh one by distance.

    Neighbours at distance zero are the same cell as far as the embedding knows: they vote alone.
    """
    winner, share = np.empty(len(distances), dtype=np.intp), np.empty(len(distances))
    for part in _parts(len(distances)):
        same = distances[part] == 0
        n_cells = len(same)
        inverse = 1 / np.where(same, 1, distances[part])
        weights = np.where(same.any(axis=1, keepdims=True), same, inverse)
        flat = labels[part] + n_labels * np.arange(n_cells)[:, None]
        counts = np.bincount(flat.ravel(), weights.ravel(), minlength=n_cells * n_labels)
        tally = counts.reshape(n_cells, n_labels)
        winner[part] = tally.argmax(axis=1)
        share[part] = tally.max(axis=1) / tally.sum(axis=1)
    return winner, share


def _parts(n: int, size: int = 65_536) -> list[slice]:
    """Slices of a table by label, which for all cells of an atlas would be too large."""
    return [slice(start, start + size) for start in range(0, n, size)]


class Centres:
    """Mahalanobis distance to the nearest label's mean :cite:p:`Lee2018`.

    The covariance is that within labels, shrunk as by :cite:t:`Ledoit2004`.
    """

    def __init__(self, values: np.ndarray, codes: np.ndarray, n_labels: int) -> None:
        from scipy import sparse
        from sklearn.covariance import LedoitWolf

        sizes = np.bincount(codes, minlength=n_labels)
        members = sparse.csr_matrix(
            (np.ones(len(codes)), (codes, np.arange(len(codes)))), (n_labels, len(codes))
        )
        sums = members @ values.astype(np.float64)
        means = sums[sizes > 0] / sizes[sizes > 0, None]
        place = np.cumsum(sizes > 0) - 1
        covariance = LedoitWolf(assume_centered=True).fit(values - means[place[codes]]).covariance_
        # Equal embeddings have no covariance to divide by.
        floor = max(float(np.trace(covariance)) / len(covariance), 1e-12) * 1e-6
        self._root = np.linalg.cholesky(covariance + floor * np.eye(len(covariance)))
        self._centres = self._whiten(means)

    def distance(self, values: np.ndarray) -> np.ndarray:
        """Distance of each cell to the nearest mean."""
        from scipy.spatial.distance import cdist

        found = np.empty(len(values))
        for part in _parts(len(values)):
            found[part] = cdist(self._whiten(values[part]), self._centres).min(axis=1)
        return found

    def _whiten(self, values: np.ndarray) -> np.ndarray:
        from scipy.linalg import solve_triangular

        whitened: np.ndarray = solve_triangular(
            self._root, values.T.astype(np.float64), lower=True
        ).T
        return whitened


class Reference:
    """A labelled embedding that labels are transferred from.

    Parameters
    ----------
    values
        Embedding, float32.
    codes
        Label of each cell, a position in a list of `n_labels`.
    n_neighbors
        Neighbours that vote.
    groups
        Cells that must not be each other's neighbours when they are held out, by number; by default
        each cell is held out by itself.
    calibrators
        Mask of the cells to calibrate on, by default all.
    """

    def __init__(
        self,
        values: np.ndarray,
        codes: np.ndarray,
        n_labels: int,
        *,
        n_neighbors: int,
        groups: np.ndarray | None = None,
        calibrators: np.ndarray | None = None,
        exact: bool,
        seed: int,
    ) -> None:
        self.values, self.codes, self.n_labels = values, codes, n_labels
        self.n_neighbors, self.groups = n_neighbors, groups
        self.exact, self.seed = exact, seed
        self.used = self._known_elsewhere()
        if calibrators is not None:
            self.used &= calibrators
        if not self.used.any():
            raise ValueError(
                "No cell of `reference` can be held out: none has a label that other cells, or those of "
                "other batches, have as well."
            )
        self.index = Index(values, exact=exact, seed=seed)
        self._own = self.index.own(n_neighbors)
        self._spread = self._own[0].mean(axis=1)
        self.centres = Centres(values, codes, n_labels)
        self._calibrate()

    def _calibrate(self) -> None:
        distances, neighbors = self._held_out_neighbors()
        winner, share = vote(distances, self.codes[neighbors], self.n_labels)
        used = self.used
        self.share, self.correct = share[used], (winner == self.codes)[used]
        self.platt = Platt.fit(self.share, self.correct, self.n_neighbors)
        local, central = self._local(distances, neighbors)[used], self._held_out_central()[used]
        self._sorted = (np.sort(local), np.sort(central))
        self._sorted_both = np.sort(self._both(local, central, held_out=True))

    def _known_elsewhere(self) -> np.ndarray:
        """Mask of the cells whose label other groups have: others are new to them, not mistaken."""
        groups = np.arange(len(self.codes)) if self.groups is None else self.groups
        pairs = np.unique(np.stack([self.codes, groups], axis=1), axis=0)
        return np.bincount(pairs[:, 0], minlength=self.n_labels)[self.codes] > 1

    def _held_out_neighbors(self) -> tuple[np.ndarray, np.ndarray]:
        if self.groups is None:
            return self._own
        shape = (len(self.values), self.n_neighbors)
        distances, neighbors = np.empty(shape), np.empty(shape, dtype=np.intp)
        for group in np.unique(self.groups):
            inside = self.groups == group
            others = np.flatnonzero(~inside)
            index = Index(self.values[others], exact=self.exact, seed=self.seed)
            distances[inside], found = index.query(self.values[inside], self.n_neighbors)
            neighbors[inside] = others[found]
        return distances, neighbors

    def _held_out_central(self) -> np.ndarray:
        folds = self.groups
        if folds is None:
            folds = rank_in_class(self.codes, derive_generator(self.seed, "folds")) % _FOLDS
        distance = np.empty(len(self.values))
        for fold in np.unique(folds):
            inside = folds == fold
            rest = Centres(self.values[~inside], self.codes[~inside], self.n_labels)
            distance[inside] = rest.distance(self.values[inside])
        return distance

    def _local(self, distances: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
        """How far the neighbours are, relative to how far theirs are :cite:p:`Breunig2000`."""
        theirs = self._spread[neighbors].mean(axis=1)
        ratio: np.ndarray = distances.mean(axis=1) / np.maximum(theirs, np.finfo(np.float64).tiny)
        return ratio

    def _both(
        self, local: np.ndarray, central: np.ndarray, *, held_out: bool = False
    ) -> np.ndarray:
        """Fisher's sum of the logarithms of two tail shares; high is novel."""
        first, second = (
            tail_share(ordered, values, member=held_out)
            for ordered, values in zip(self._sorted, (local, central), strict=True)
        )
        total: np.ndarray = -np.log(first) - np.log(second)
        return total

    def transfer(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Label, confidence and novelty of other cells."""
        distances, neighbors = self.index.query(values, self.n_neighbors)
        winner, share = vote(distances, self.codes[neighbors], self.n_labels)
        both = self._both(self._local(distances, neighbors), self.centres.distance(values))
        return winner, self.platt(share), 1 - tail_share(self._sorted_both, both)

    def calibration(self) -> dict[str, Any]:
        """Reliability of the confidence of held-out cells, which it was not fitted on."""
        rank = rank_in_class(self.correct.astype(np.intp), derive_generator(self.seed, "platt"))
        confidence = np.empty(len(self.share))
        for fold in range(_FOLDS):
            inside = rank % _FOLDS == fold
            if inside.all():
                confidence[:] = self.platt(self.share)
            elif inside.any():
                fitted = Platt.fit(self.share[~inside], self.correct[~inside], self.n_neighbors)
                confidence[inside] = fitted(self.share[inside])
        bins = reliability(confidence, self.correct)
        return {
            "slope": self.platt.slope,
            "intercept": self.platt.intercept,
            "ece": calibration_error(bins),
            "ece_of_votes": calibration_error(reliability(self.share, self.correct)),
            "accuracy": float(self.correct.mean()),
            "n_cells": len(self.share),
            "bins": bins,
        }


def tail_share(ordered: np.ndarray, values: np.ndarray, *, member: bool = False) -> np.ndarray:
    """Share of `ordered` and the value itself that is at least as large as the value.

    With `member` the values are those of `ordered`, and none is counted twice.
    """
    at_least = len(ordered) - np.searchsorted(ordered, values, side="left")
    share: np.ndarray = (at_least + (not member)) / (len(ordered) + (not member))
    return share
