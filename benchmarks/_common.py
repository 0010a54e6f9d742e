"""What the benchmarks share: data, the plain dense baseline, and what to print of the machine."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import torch
from scipy import sparse

SIZES = {"small": (256, 128), "large": (512, 512, 256, 256)}
N_LATENT = 64
RATE = 0.5


def data_dir() -> Path:
    """Folder of the real data sets."""
    folder = os.environ.get("SCSSL_DATA_DIR")
    if not folder:
        sys.exit("Set SCSSL_DATA_DIR to the folder with the data sets.")
    return Path(folder)


def synthetic_counts(
    n_cells: int, n_genes: int, density: float, seed: int = 0, means: np.ndarray | None = None
) -> sparse.csr_matrix:
    """Counts with the sparsity of an atlas: few genes everywhere, most of them rare; or with given means."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.3, 1.0, n_genes) if means is None else rng.permutation(means)
    low, high = 1e-6, 1e6
    while high / low > 1.001:
        scale = np.sqrt(low * high)
        low, high = (scale, high) if (1 - np.exp(-scale * rate)).mean() < density else (low, scale)
    rows = [sparse.csr_matrix(rng.poisson(rate * scale, (500, n_genes)).astype(np.float32))]
    rows += [
        sparse.csr_matrix(rng.poisson(rate * scale, (500, n_genes)).astype(np.float32))
        for _ in range((n_cells - 1) // 500)
    ]
    return sparse.vstack(rows, format="csr")[:n_cells]


def lognorm(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """log1p of counts per 10,000."""
    x = sparse.csr_matrix(counts, dtype=np.float32, copy=True)
    sums = np.asarray(x.sum(1)).ravel()
    x.data *= np.repeat(1e4 / np.maximum(sums, 1), np.diff(x.indptr)).astype(np.float32)
    np.log1p(x.data, out=x.data)
    return x


class DenseAutoencoder(torch.nn.Module):
    """The same layers in plain PyTorch, as one would write them down."""

    def __init__(self, n_genes: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = self._stack([n_genes, *hidden, N_LATENT])
        self.decoder = self._stack([N_LATENT, *reversed(hidden), n_genes])

    @staticmethod
    def _stack(sizes: list[int]) -> torch.nn.Sequential:
        layers: list[torch.nn.Module] = []
        for i in range(len(sizes) - 1):
            layers.append(torch.nn.Linear(sizes[i], sizes[i + 1]))
            if i < len(sizes) - 2:
                layers += [torch.nn.SELU(), torch.nn.Dropout(0.1)]
        return torch.nn.Sequential(*layers)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        mask = (torch.rand_like(x) < RATE).float()
        predicted = self.decoder(self.encoder(x * (1 - mask)))
        return ((predicted - x) ** 2 * mask).sum() / mask.sum()


def dense_step(net: DenseAutoencoder, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    """One plain step."""
    optimizer.zero_grad()
    net.loss(x).backward()
    optimizer.step()


def machine() -> str:
    """One line on the machine, and whether torch's vectorised expm1 is in its slow state."""
    x = -torch.rand(2_000_000)

    def per_element(function) -> float:
        function(x)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            function(x)
            times.append(time.perf_counter() - start)
        return float(np.median(times)) / x.numel() * 1e9

    torch.nn.functional.selu(x)
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()}, "
        f"{torch.get_num_threads()} threads; torch.nn.SELU {per_element(torch.nn.functional.selu):.2f}, "
        f"torch.exp {per_element(torch.exp):.2f} ns per element"
    )


def peak_rss_gb() -> float:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def to_anndata(counts: sparse.csr_matrix) -> anndata.AnnData:
    """AnnData with made-up names."""
    adata = anndata.AnnData(counts)
    adata.var_names = [f"gene{i}" for i in range(counts.shape[1])]
    adata.obs_names = [f"cell{i}" for i in range(counts.shape[0])]
    return adata


def table(rows: list[dict[str, object]]) -> str:
    """Rows as a Markdown table."""
    names = list(rows[0])
    text = [[str(row.get(name, "")) for name in names] for row in rows]
    width = [max(len(n), *(len(r[i]) for r in text)) for i, n in enumerate(names)]

    def line(cells: list[str]) -> str:
        padded = (c.ljust(w) for c, w in zip(cells, width, strict=True))
        return "| " + " | ".join(padded) + " |"

    return "\n".join([line(names), line(["-" * w for w in width]), *map(line, text)])


def read(out: Path) -> list[dict]:
    """Rows of a file to which a script appends them."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def effective_rank_of(embedding: np.ndarray) -> float:
    """Effective rank of an embedding."""
    from scssl.nn import effective_rank

    return effective_rank(torch.from_numpy(np.asarray(embedding, dtype=np.float64)))
