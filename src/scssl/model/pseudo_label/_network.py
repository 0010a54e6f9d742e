"""Pretraining by predicting the clusters of cells, data set by data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from scvi.module.base import LossOutput
from torch import Tensor, nn

from scssl.augment import Mask, ViewContext
from scssl.data.keys import CLUSTERS, DATASET
from scssl.module import SSLModule, embedded, undecayed_vectors
from scssl.nn import BatchNormEncoder, is_shared, mean_of_all
from scssl.objective import partition_cross_entropy

from ._options import PseudoLabelOptions


class PseudoLabelModule(SSLModule):
    """One encoder, and a linear head for each data set that predicts the clusters of its cells.

    There are heads only while a round of training lasts (:meth:`start_round`): what is saved is the encoder.
    """

    warm_layers = ("gene_encoder",)

    def __init__(self, n_genes: int, options: PseudoLabelOptions) -> None:
        super().__init__()
        self.options, self.n_latent = options, options.n_latent
        self.encoder = BatchNormEncoder(
            n_genes,
            hidden_dims=options.hidden_dims,
            n_latent=options.n_latent,
            activation=options.activation,
            dropout=options.dropout,
            batch_norm=options.batch_norm,
        )
        self.mask = Mask(options.mask_rate, p=1.0, rescale=True) if options.mask_rate else None
        self.n_clusters: list[list[int]] = []
        self.heads: nn.ModuleList | None = None

    def start_round(self, n_clusters: Sequence[Sequence[int]], seed: int) -> None:
        """New heads for a new set of partitions, with the number of clusters of each in each data set."""
        self.n_clusters = [[int(k) for k in of_dataset] for of_dataset in n_clusters]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            heads = [nn.Linear(self.n_latent, sum(k)) for k in self.n_clusters]
        self.heads = nn.ModuleList(heads).to(self.device)

    def end_round(self) -> None:
        """Leave the encoder alone."""
        self.heads, self.n_clusters = None, []

    def loss(
        self,
        tensors: Mapping[str, Tensor],
        *,
        rng: torch.Generator | None = None,
        full: bool = True,
    ) -> LossOutput:
        """Mean over the data sets in the batch of the loss of their cells; their sum, as published."""
        if self.heads is None:
            raise RuntimeError("There are no clusters to predict: start_round() comes first.")
        x = self._rows(tensors)
        if self.mask is not None and self.training:
            z = self.encoder(self.mask(x, self._generator(rng), ViewContext()))
        else:
            z = self.encoder(x)
        if self.options.head_activation is not None:
            z = z.sigmoid() if self.options.head_activation == "sigmoid" else z.relu()
        dataset, clusters = tensors[DATASET].squeeze(-1), tensors[CLUSTERS]
        losses, hits = [], z.new_zeros(())
        # Cells of each data set in the processes on average: a mean is of those of all.
        n_cells = mean_of_all(dataset.bincount(minlength=len(self.heads)).float())
        # Of each data set: sum of the losses of its cells, and their number.
        tally = torch.zeros(2, len(self.heads), device=z.device)
        # Of one data set nothing has to be asked of a device.
        several = len(self.heads) > 1
        for code in dataset.unique().tolist() if several else (0,):
            own = dataset == code
            own = own.nonzero().squeeze(1) if several else torch.arange(len(z), device=z.device)
            logits = self.heads[code](z.index_select(0, own))
            labels = clusters.index_select(0, own)
            sizes = self.n_clusters[code]
            if not len(own):
                # Of a batch with fewer cells than processes.
                losses.append(logits.sum())
                continue
            loss = partition_cross_entropy(logits, labels, sizes, weighted=self.options.weighted)
            losses.append(loss * (len(own) / n_cells[code]) if is_shared() else loss)
            if full:
                tally[:, code] = torch.stack([loss.detach() * len(own), hits.new_tensor(len(own))])
                for p, part in enumerate(logits.split(sizes, dim=1)):
                    hits = hits + (part.argmax(1) == labels[:, p]).sum() / len(sizes)
        if is_shared():
            # Every process waits for a gradient of every head.
            total = sum(head(z[:0]).sum() for head in self.heads) + sum(losses)
            total = total / int((n_cells > 0).sum()) if self.options.weighted else total
        else:
            total = self._over_data_sets(torch.stack(losses))
        metrics = {"hits": hits, "losses": tally[0], "cells": tally[1]} if full else {}
        return LossOutput(loss=total, n_obs_minibatch=len(z), extra_metrics=metrics)

    def validation_scores(self, tally: Mapping[str, Tensor]) -> dict[str, float]:
        """The objective, and the share of the clusters that are told right, over cells and partitions.

        The objective takes the mean of each data set over all its validation cells: a batch of them has
        as many of each data set as there happen to be, or none.
        """
        cells = tally["cells"]
        seen = cells > 0
        loss = self._over_data_sets(tally["losses"][seen] / cells[seen])
        return {"loss": float(loss), "accuracy": float(tally["hits"] / cells.sum())}

    def _over_data_sets(self, losses: Tensor) -> Tensor:
        return losses.mean() if self.options.weighted else losses.sum()

    def encode(self, tensors: Mapping[str, Tensor]) -> Tensor:
        z: Tensor = self.encoder(self._rows(tensors))
        return z

    def embed(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return embedded(self.encoder, self._rows(tensors))

    def encoder_parts(self) -> list[nn.Module]:
        """Layers of the encoder, each with its normalisation, the one on the genes first."""
        return list(self.encoder.parts())

    def compilable(self) -> tuple[nn.Module, ...]:
        return (self.encoder.rest,)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return undecayed_vectors(self)
