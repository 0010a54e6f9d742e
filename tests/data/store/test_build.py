from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import textwrap
import warnings

import anndata
import h5py
import numpy as np
import pytest
from scipy import sparse

from scssl._errors import BundleError, GeneMismatchError, ScsslWarning
from scssl._io import file_digest
from scssl.data import Store, build_store
from scssl.data.store import _build, _manifest

from .conftest import make

pytest.importorskip("annbatch", reason="stores need annbatch, of the extra atlas")

# Buckets and blocks so small that there are several of both.
SMALL = {"memory": "2MB", "obs_keys": ["type", "age"]}


@pytest.fixture(scope="module")
def built(files, tmp_path_factory):
    return build_store(files, tmp_path_factory.mktemp("store") / "atlas", **SMALL)


def content(store):
    """Counts, columns and names of the cells of each input, in its order."""
    obs, counts = store.obs(), store.rows.read(np.arange(store.n_cells))
    names = np.concatenate([store.cells(i).index for i in range(len(store.shards))])
    found = {}
    for name in store.inputs.index:
        rows = np.flatnonzero(obs["input"] == name)
        rows = rows[np.argsort(obs["row"][rows])]
        found[name] = counts[rows], obs.iloc[rows], names[rows]
    return found


def same_files(one, two):
    """Whether two folders are the same to the byte."""
    return listed(one) == listed(two)


def listed(base):
    """Digest of each file."""
    return {
        str(path.relative_to(base)): file_digest(path) for path in base.rglob("*") if path.is_file()
    }


def check(store, pieces):
    found = content(store)
    assert list(found) == list(pieces)
    for name, adata in pieces.items():
        counts, obs, names = found[name]
        aligned = store.genes.align(adata.var_names, min_overlap=0).apply(adata.X)
        assert (counts != aligned).nnz == 0
        assert names.tolist() == adata.obs_names.tolist()
        assert obs["row"].tolist() == list(range(adata.n_obs))
        assert set(obs["dataset"]) == {name}
        for key in {"type", "age"} & set(store.columns) & set(adata.obs):
            assert obs[key].tolist() == adata.obs[key].tolist()


def test_every_cell_is_there_once_under_its_genes(built, pieces):
    assert (built.n_cells, len(built.genes), len(built.shards)) == (1700, 600, 6)
    assert built.inputs["n_matched"].tolist() == [400, 300]
    check(built, pieces)
    built.check()


def test_what_is_known_of_all_cells(built, pieces):
    values = np.concatenate([adata.X.data for adata in pieces.values()])
    assert built.statistics["stored values"] == len(values)
    assert built.statistics["largest value"] == values.max()
    assert built.statistics["sum of all"] == values.sum()
    one, genes = pieces["one"], built.gene_statistics
    assert genes.loc["GENE5", "total"] == one.X[:, 5].sum()
    assert genes.loc["GENE5", "n_cells"] == one.X[:, 5].nnz


def test_cells_of_all_inputs_are_mixed(built):
    codes = built.column("input")
    for start, stop in built.shards:
        share = (codes[start:stop] == 0).mean()
        assert abs(share - 1000 / 1700) < 0.12
        runs = np.count_nonzero(np.diff(codes[start:stop])) + 1
        expected = 2 * share * (1 - share) * (stop - start)
        assert abs(runs - expected) < 4 * np.sqrt(stop - start)


def test_annbatch_reads_it(built):
    import annbatch

    with warnings.catch_warnings():
        # Of annbatch on its own files.
        warnings.simplefilter("ignore")
        collection = annbatch.DatasetCollection(built.path / "cells.zarr", mode="r")
        loader = annbatch.Loader(batch_size=64, shuffle=True, preload_to_gpu=False)
        batches = list(loader.use_collection(collection))
    assert sum(batch["X"].shape[0] for batch in batches) == 1700


def test_the_same_seed_gives_the_same_bytes_and_another_another_order(files, built, tmp_path):
    again = build_store(files, tmp_path / "atlas", **SMALL)
    assert same_files(again.path, built.path)
    assert again.digest == built.digest
    other = build_store(files, tmp_path / "other", rng=1)
    assert other.column("row").tolist() != built.column("row").tolist()


def test_cells_of_a_group_are_next_to_one_another(files, pieces, monkeypatch, tmp_path):
    """In random order each, of all inputs, and in the same order when it is built again."""
    given = {"obs_keys": ["type", "age"], "group_key": "type"}
    for adata in pieces.values():
        assert set(adata.obs["type"]) == {"B", "T"}
    monkeypatch.setattr(_build, "_SHARD_SHARE", 20)
    store = build_store(files, tmp_path / "one", **given, memory="4MB")
    assert (store.group_key, len(store.shards) > 3) == ("type", True)
    check(store, pieces)
    codes = store.column("type")
    assert len(np.flatnonzero(np.diff(codes))) == 1
    source, row = store.column("input"), store.column("row")
    for code in (0, 1):
        own = codes == code
        # The first input has 10 of 17 cells, and its rows come in no order.
        share = np.array([np.mean(part == 0) for part in np.array_split(source[own], 4)])
        assert (abs(share - 10 / 17) < 0.1).all()
        assert (
            abs(np.corrcoef(row[own][source[own] == 0], np.arange(sum(source[own] == 0)))[0, 1])
            < 0.15
        )
    again = build_store(files, tmp_path / "two", **given, memory="4MB")
    assert same_files(store.path, again.path)
    more = build_store({"more": pieces["one"][:50].copy()}, store.path, append=True)
    assert more.group_key == "type"
    assert len(np.flatnonzero(np.diff(more.column("type")))) == 3
    with pytest.raises(ValueError, match="laid out by 'type'.*`group_key=None`"):
        other = {"other": pieces["two"][:50].copy()}
        build_store(other, store.path, append=True, group_key="dataset")
    for key in ("age", "kind"):
        with pytest.raises(
            ValueError, match=f"`group_key` must be a column of categories.*{key!r}"
        ):
            build_store(files, tmp_path / "three", **{**given, "group_key": key})


def test_inputs_of_all_kinds(files, pieces, tmp_path):
    backed = anndata.read_h5ad(files[0], backed="r")
    dense = anndata.AnnData(pieces["two"].X.toarray(), pieces["two"].obs, pieces["two"].var)
    dense.layers["counts"], dense.X = dense.X, np.log1p(dense.X)
    dense.write_h5ad(tmp_path / "dense.h5ad")
    inputs = {"two": tmp_path / "dense.h5ad"}
    store = build_store(inputs, tmp_path / "layer", layer="counts", obs_keys=["age"])
    check(store, {"two": pieces["two"]})
    csc = pieces["one"].copy()
    csc.X = csc.X.tocsc()
    inputs = {"one": backed, "two": pieces["two"], "three": csc}
    store = build_store(inputs, tmp_path / "memory", obs_keys=["type", "age"])
    check(store, {"one": pieces["one"], "two": pieces["two"], "three": pieces["one"]})


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have another heap")
def test_the_heap_does_not_grow_with_the_number_of_shards(files, tmp_path, monkeypatch):
    def megabytes():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

    # Of a size that is taken from the heap, and some stay: what lies below them is not returned by itself.
    blocks = [np.ones(2**13) for _ in range(2000)]
    outlive = blocks[::100]
    blocks.clear()
    before = megabytes()
    _build._return_free_memory()
    assert before - megabytes() > 80
    assert all(one.all() for one in outlive)

    returned = []
    monkeypatch.setattr(_build, "_return_free_memory", lambda: returned.append(True))
    store = build_store(files, tmp_path / "atlas", **SMALL)
    assert len(returned) == len(store.shards) > 1


def test_lazy_input(files, pieces, tmp_path):
    pytest.importorskip("xarray")
    lazy = anndata.experimental.read_lazy(files[1])
    store = build_store({"two": lazy}, tmp_path / "atlas", obs_keys=["type", "age"])
    check(store, {"two": pieces["two"]})


def test_files_of_10x(tmp_path):
    counts = np.random.default_rng(0).poisson(0.5, (40, 6)).astype(np.int32)
    counts[:, 5] = 100
    counts = sparse.csr_matrix(counts)
    with h5py.File(tmp_path / "ten.h5", "w") as file:
        matrix = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            matrix[name] = getattr(counts, name)
        matrix["shape"] = [6, 40]
        matrix["barcodes"] = [f"cell{i}".encode() for i in range(40)]
        matrix["features/id"] = [f"ENSG0000000000{i}".encode() for i in range(6)]
        kinds = ["Gene Expression"] * 5 + ["Antibody Capture"]
        matrix["features/feature_type"] = [kind.encode() for kind in kinds]
    store = build_store(tmp_path / "ten.h5", tmp_path / "atlas")
    assert len(store.genes) == 5
    read, _, names = content(store)["ten"]
    assert (read.toarray() == counts[:, :5].toarray()).all()
    assert names[7] == "cell7"


def test_genes_and_data_sets(files, pieces, tmp_path):
    store = build_store(files, tmp_path / "shared", genes="intersection")
    assert store.genes.names.tolist() == [f"GENE{i}" for i in range(300, 400)]
    names = ["GENE599", "GENE0", "GENE350"]
    store = build_store(files, tmp_path / "named", genes=names, dataset_key="type")
    assert store.genes.names.tolist() == names
    assert store.categories("dataset") == ["B", "T"]
    counts, obs, _ = content(store)["one"]
    assert obs["dataset"].tolist() == pieces["one"].obs["type"].tolist()
    assert (
        counts[:, 1].toarray().ravel().tolist() == pieces["one"].X[:, 0].toarray().ravel().tolist()
    )


def test_columns_that_some_inputs_lack(pieces, tmp_path):
    bare = pieces["two"].copy()
    del bare.obs["type"], bare.obs["age"]
    inputs = {"one": pieces["one"], "bare": bare}
    store = build_store(inputs, tmp_path / "atlas", obs_keys=["type", "age"])
    obs = store.obs(keys=["type", "age", "input"])
    assert (obs.isna()["type"] == (obs["input"] == "bare")).all()
    assert (obs.isna()["age"] == (obs["input"] == "bare")).all()


# --- killed and resumed ------------------------------------------------------------------------


class Killed(BaseException):
    """Raised in place of what kills a process."""


STEPS = [
    (_build._Part, "append"),
    (_build, "write_json"),
    (_build, "write_shard"),
    (_build, "describe_files"),
    (_build, "finish_collection"),
    (_build.shutil, "rmtree"),
]


@pytest.fixture
def kill(monkeypatch):
    """Be killed before, or after, the given call of a step."""

    def arm(where, name, number, *, after):
        usual, count = getattr(where, name), [0]

        def step(*args, **kwargs):
            count[0] += 1
            if count[0] == number and not after:
                raise Killed
            done = usual(*args, **kwargs)
            if count[0] == number and after:
                raise Killed
            return done

        monkeypatch.setattr(where, name, step)
        return lambda: (monkeypatch.setattr(where, name, usual), count[0])[1]

    return arm


@pytest.fixture
def quick(monkeypatch):
    """Shards written without Zarr, which takes its time."""

    def write(folder, name, adata):
        (folder / name).mkdir(parents=True)
        for column, values in adata.obs.items():
            codes = values.cat.codes if hasattr(values, "cat") else values
            np.save(folder / name / f"{column}.npy", codes.to_numpy())
        sparse.save_npz(folder / name / "X.npz", adata.X)
        (folder / name / "cells").write_text(" ".join(adata.obs_names))

    monkeypatch.setattr(_build, "write_shard", write)
    monkeypatch.setattr(_build, "read_codes", lambda path, name: np.load(path / f"{name}.npy"))
    monkeypatch.setattr(_build, "finish_collection", lambda folder: (folder / "done").touch())


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("where", "name"), STEPS, ids=[name for _, name in STEPS])
def test_killed_at_every_step(where, name, after, files, quick, kill, tmp_path):
    out, whole = tmp_path / "atlas", tmp_path / "whole"
    build_store(files, whole, **SMALL)
    n_kills = 0
    for number in itertools.count(1):
        disarm = kill(where, name, number, after=after)
        try:
            build_store(files, out, **SMALL)
        except Killed:
            n_kills += 1
        disarm()
        if out.exists():
            break
        with pytest.raises(BundleError, match="interrupted|is not there"):
            Store(out)
    assert n_kills
    # What was on its way may be left; nothing reads it.
    shutil.rmtree(out / "building", ignore_errors=True)
    assert listed(out) == listed(whole)
    assert not _manifest.partial_of(out).exists()


def test_killed_for_good(files, built, tmp_path):
    """By the system, in the middle of a write."""
    out = tmp_path / "atlas"
    code = f"""
        import os, signal
        from scssl.data import build_store
        from scssl.data.store import _build
        usual, count = _build._Part.append, []
        def append(part, path, size, index_type):
            count.append(usual(part, path, size, index_type))
            if len(count) == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            return count[-1]
        _build._Part.append = append
        build_store({[str(one) for one in files]!r}, {str(out)!r}, **{SMALL!r})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -9
    noted = json.loads((_manifest.partial_of(out) / "building/journal.json").read_text())
    assert (noted["input"], noted["shards"]) == (0, {})
    with pytest.raises(BundleError, match="was interrupted"):
        Store(out)
    build_store(files, out, **SMALL)
    assert same_files(out, built.path)


def test_a_full_disk(files, built, monkeypatch, tmp_path):
    out, usual = tmp_path / "atlas", _build.write_shard
    calls = []

    def full(folder, name, adata):
        calls.append(name)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        usual(folder, name, adata)

    monkeypatch.setattr(_build, "write_shard", full)
    with pytest.raises(OSError, match="no room left to build.*atlas.partial; make room") as error:
        build_store(files, out, **SMALL)
    assert error.value.errno == errno.ENOSPC
    build_store(files, out, **SMALL)
    assert calls == [f"dataset_{i}" for i in (0, 1, 2, 2, 3, 4, 5)]
    assert same_files(out, built.path)


# --- adding to a store ---------------------------------------------------------------------------


def test_append(built, pieces, files, tmp_path):
    out = tmp_path / "atlas"
    shutil.copytree(built.path, out)
    more = make(300, range(200, 350), 2)
    more.obs["type"] = "NK"
    before = {p: p.read_bytes() for p in (out / "cells.zarr").rglob("c/*")}
    store = build_store({"one": files[0], "more": more}, out, append=True)
    assert (store.n_cells, len(store.genes), len(store.shards)) == (2000, 600, 7)
    assert store.categories("type") == ["B", "T", "NK"]
    assert all(path.read_bytes() == was for path, was in before.items())
    check(store, {**pieces, "more": more})
    assert store.statistics["sum of all"] == sum(a.X.sum() for a in (*pieces.values(), more))
    store.check()
    again = build_store({"more": more}, out, append=True)
    assert again.digest == store.digest


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("where", "name"), STEPS, ids=[name for _, name in STEPS])
def test_append_killed(where, name, after, files, quick, kill, tmp_path):
    more = make(80, range(200, 350), 2)
    whole, out = tmp_path / "whole", tmp_path / "atlas"
    for path in (whole, out):
        build_store(files, path, **SMALL)
    build_store({"more": more}, whole, append=True)
    for number in (1, 2, 3):
        disarm = kill(where, name, number, after=after)
        with contextlib.suppress(Killed):
            build_store({"more": more}, out, append=True)
        disarm()
        assert Store(out).n_cells in (1700, 1780)
    build_store({"more": more}, out, append=True)
    assert same_files(out, whole)


# --- what is refused -------------------------------------------------------------------------------


def test_not_counts(pieces, tmp_path):
    def refused(value, match):
        bad = pieces["one"].copy()
        values = bad.X.toarray()
        values[500, 7] = value
        bad.X = sparse.csr_matrix(values)
        with pytest.raises(ValueError, match=match):
            build_store({"bad": bad}, tmp_path / "atlas", memory="1MB")
        shutil.rmtree(tmp_path / "atlas.partial")

    place = r"in cell 'cell0_500 \(row 500\)', gene 'GENE7'"
    refused(0.5, rf"Input 'bad': adata.X holds fractions \(0.5 {place}\)")
    refused(-1, rf"Input 'bad': adata.X has 1 negative values; the first is -1 {place}")
    refused(np.nan, rf"Input 'bad': adata.X has 1 values that are NaN.*nan {place}")
    refused(2**25, "a value of 3.35544e")


def test_counts_in_a_layer_are_pointed_to(pieces, tmp_path):
    bad = pieces["one"].copy()
    bad.layers["raw"] = bad.X.copy()
    bad.X = bad.X.log1p()
    with pytest.raises(ValueError, match='Counts were found in .*pass `layer="raw"`'):
        build_store({"bad": bad}, tmp_path / "atlas")


def test_no_common_genes(pieces, tmp_path):
    with pytest.raises(GeneMismatchError, match="none of the 2 genes of the store"):
        build_store(pieces, tmp_path / "atlas", genes=["GENE500", "GENE501"])
    with pytest.warns(ScsslWarning, match="Input 'two' has 1 of the 101 genes"):
        build_store(pieces, tmp_path / "atlas", genes=[f"GENE{i}" for i in range(200, 301)])


def test_changed_since_the_journal(files, kill, tmp_path):
    copies = [shutil.copy2(files[0], tmp_path / "one.h5ad")]
    disarm = kill(_build, "write_shard", 1, after=False)
    with pytest.raises(Killed):
        build_store(copies, tmp_path / "atlas", **SMALL)
    disarm()
    with pytest.raises(ValueError, match="part of another build: its obs_keys"):
        build_store(copies, tmp_path / "atlas", memory="1MB")
    os.utime(copies[0], (1, 1))
    with pytest.raises(ValueError, match="Input 'one' has changed since .*time of the last change"):
        build_store(copies, tmp_path / "atlas", **SMALL)


def test_written_to_while_it_is_read(files, monkeypatch, tmp_path):
    path, usual = shutil.copy(files[0], tmp_path / "one.h5ad"), _build._Part.append

    def append(*args):
        os.utime(path, (1, 1))
        return usual(*args)

    monkeypatch.setattr(_build._Part, "append", append)
    with pytest.raises(ValueError, match="was written to while it was read"):
        build_store(path, tmp_path / "atlas", **SMALL)


def test_arguments(pieces, files, built, tmp_path):
    def refused(error, match, inputs=files, out=tmp_path / "atlas", **given):
        with pytest.raises(error, match=match):
            build_store(inputs, out, **given)

    refused(ValueError, "exists already.*`append=True`", out=built.path)
    refused(ValueError, 'must be "union", "intersection"', genes="all")
    refused(ValueError, "at least a megabyte", memory="lots")
    refused(KeyError, "No input has a column 'kind'", obs_keys=["kind"])
    refused(ValueError, "Every store has a column 'row'", obs_keys=["row"])
    refused(FileNotFoundError, "There is no input", inputs=["absent.h5ad"])
    refused(ValueError, "There are no `inputs`", inputs=[])
    refused(TypeError, "must be files or AnnData", inputs=7)
    refused(ValueError, "Several inputs are called 'one'", inputs=[files[0], files[0]])
    refused(KeyError, "has no layers/raw", layer="raw")
    other = pieces["two"].copy()
    other.obs["age"] = "old"
    inputs = {"one": pieces["one"], "two": other}
    refused(ValueError, "holds numbers in 'one' and names", inputs=inputs, obs_keys=["age"])
    (tmp_path / "broken.h5ad").write_text("no file of cells")
    refused(ValueError, "Input 'broken' .* cannot be read", inputs=tmp_path / "broken.h5ad")


def test_damaged(built, tmp_path):
    out = tmp_path / "atlas"

    def damaged(match, change, *, check=False):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(built.path, out)
        change()
        with pytest.raises(BundleError, match=match):
            store = Store(out)
            store.check() if check else store.rows.read(np.arange(store.n_cells))

    shard = out / "cells.zarr/dataset_1/X/data/c/0"

    def alter():
        content = bytearray(shard.read_bytes())
        content[100] ^= 255
        shard.write_bytes(content)

    def other_version():
        manifest = json.loads((out / "store.json").read_text())
        (out / "store.json").write_text(json.dumps({**manifest, "format_version": 9}))

    damaged("dataset_1/X/data/c/0 is missing", shard.unlink)
    damaged("has 3 bytes, and had", lambda: shard.write_bytes(b"abc"))
    damaged("was altered after it was built.*Store.check says which", alter)
    damaged("dataset_1/X/data/c/0 was altered", alter, check=True)
    damaged("format version 9; this version of scssl reads up to 1", other_version)
    damaged("truncated or malformed", lambda: (out / "store.json").write_text("{"))
    damaged("holds no store of scssl", (out / "store.json").unlink)


def test_reading(built):
    rows = [1500, 3, 3, 900]
    whole = built.rows.read(np.arange(built.n_cells))
    assert (built.rows.read(rows) != whole[rows]).nnz == 0
    assert built.rows.read(rows).dtype == np.float32
    with pytest.raises(KeyError, match="no column 'kind'; it has 'type', 'age'"):
        built.column("kind")
    with pytest.raises(ValueError, match="holds numbers, and no categories"):
        built.categories("age")
    assert "1,700 cells × 600 genes from 2 inputs" in repr(built)
