"""Checkpoints of CellPLM are known by their content, and no tensor of them is overlooked."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from scssl._errors import BundleError
from scssl.published._cellplm import read_cellplm
from scssl.published._checkpoint import read_checkpoint

G = 30
EMB = "embedder.feat_enc.emb"
INFERENCE = "latent.layers.1.inference."
# Where the weights of a published checkpoint go, spelled out.
BLOCKS = {
    "embedder.extra_linear.0": "encoder.input",
    "embedder.extra_linear.3": "encoder.input_norm",
    "encoder.layers.0.self_attn.query_projection": "encoder.layers.0.attention.query",
    "encoder.layers.1.self_attn.key_projection": "encoder.layers.1.attention.key",
    "encoder.layers.1.self_attn.value_projection": "encoder.layers.1.attention.value",
    "encoder.layers.0.self_attn.out_projection": "encoder.layers.0.attention.out",
    "encoder.layers.0._ff_block.0": "encoder.layers.0.ff.0",
    "encoder.layers.1._ff_block.3": "encoder.layers.1.ff.3",
    "encoder.layers.1.norm1": "encoder.layers.1.norm1",
    "encoder.layers.0.norm2": "encoder.layers.0.norm2",
    "pre_latent_norm.norm": "encoder.norm",
    "decoder.layers.0.0": "decoder.input",
    "decoder.layers.0.3": "decoder.norm",
    "decoder.out_layer.dec_mean.0": "gene_decoder",
}
LATENT = {
    "vae": {
        "latent.layers.1.hid_2mu": "encoder.latent.mean",
        "latent.layers.1.hid_2sigma": "variational.log_variance",
    },
    "gmvae": {
        f"{INFERENCE}inference_qyx.0.logits": "encoder.latent.clusters",
        f"{INFERENCE}inference_qzyx.0": "encoder.latent.mix",
        f"{INFERENCE}inference_qzyx.2.mu": "encoder.latent.mean",
        f"{INFERENCE}inference_qzyx.2.var": "variational.variance",
        f"{INFERENCE}y_mu": "variational.prior_mean",
        f"{INFERENCE}y_var": "variational.prior_variance",
    },
    "ae": {"latent.layers.1.lat_2lat.0": "encoder.latent.mean"},
}


@pytest.fixture
def write(tmp_path, cellplm):
    """Write the two files; what :func:`read_cellplm` takes."""

    def write(config, state, **kwargs):
        path = cellplm.write(tmp_path, "any", config, state, **kwargs)
        return path, tmp_path / "any.config.json"

    return write


@pytest.fixture
def made(cellplm):
    """Configuration and tensors of a variant."""

    def make(latent, **kwargs):
        changes = {k: kwargs.pop(k) for k in list(kwargs) if k not in ("decoder", "n_classes")}
        config = cellplm.configuration(G, latent, **changes)
        return config, cellplm.state_dict(config, **kwargs)

    return make


@pytest.mark.parametrize("latent", ["gmvae", "vae", "ae"])
def test_every_tensor_is_used_or_set_aside_for_a_reason(latent, made, write):
    config, state = made(latent)
    found = read_cellplm(*write(config, state))
    used, unused = found.report["used"], found.report["unused"]
    assert set(used) | set(unused) == set(state)
    assert not set(used) & set(unused)
    filled = found.report["filled"]
    assert set(filled) == {"gene_encoder.bias", "warmup"}
    assert set(used.values()) | set(filled) == set(found.tensors)
    assert not set(used.values()) & set(filled)
    assert not found.tensors["gene_encoder.bias"].any()
    assert all(len(reason) > 10 for reason in unused.values())
    assert found.family == "cellplm"
    assert found.report["variant"] == found.arguments["latent"] == latent
    blocks = {**BLOCKS, **LATENT[latent]}
    for source, name in blocks.items():
        for part in ("weight", "bias"):
            assert used[f"{source}.{part}"] == f"{name}.{part}"
            torch.testing.assert_close(
                found.tensors[f"{name}.{part}"], state[f"{source}.{part}"], rtol=0, atol=0
            )
    for source, name in {
        EMB: "gene_encoder.weight",
        "decoder.layers.0.1.weight": "decoder.activation.weight",
        "decoder.out_layer.dec_1.weight": "decoder.hidden.weight",
        "decoder.out_layer.dec_disp": "log_dispersion",
    }.items():
        assert used[source] == name
        torch.testing.assert_close(found.tensors[name], state[source], rtol=0, atol=0)
    assert found.genes == tuple(config["gene_list"])
    assert found.report["other_entries"] == {"epoch": "not a weight"}
    assert "gene_list" not in found.report["config"]
    assert found.report["config"]["num_clusters"] == 5
    json.dumps(found.report)


@pytest.mark.parametrize(("latent", "n"), [("gmvae", 105), ("vae", 97)])
def test_number_of_tensors_and_numbers_of_the_released_models(latent, n, cellplm):
    """The layout that is made here is that of the documents: their counts, without drawing 330 MB."""
    config = cellplm.configuration(3, latent, **cellplm.RELEASED)

    class Counter(cellplm.Maker):
        def normal(self, key, *shape, **_):
            # Three genes stand for all of them.
            self.state[key] = np.prod([cellplm.RELEASED["out_dim"] if s == 3 else s for s in shape])

    patched, cellplm.Maker = cellplm.Maker, Counter
    try:
        state = cellplm.state_dict(config)
    finally:
        cellplm.Maker = patched
    assert len(state) == n
    assert sum(state.values()) == {"gmvae": 82_402_543, "vae": 82_360_031}[latent]


def test_sizes_and_recipe_become_arguments(made, write):
    found = read_cellplm(*write(*made("gmvae", enc_layers=3)))
    assert found.arguments == {
        "preset": "cellplm",
        "n_hidden": 16,
        "n_layers": 3,
        "n_heads": 4,
        "n_latent": 8,
        "latent": "gmvae",
        "n_clusters": 5,
        "attention": "flow",
        "position": "off",
        "decoder": True,
        "loss": "nb",
        "warmup_steps": 10_000,
        "dropout": 0.2,
        "mask_cells": 0.75,
        "mask_rate": 0.25,
        "cell_dropout": 0.3,
        "decoder_width": 128,
    }
    assert "n_clusters" not in read_cellplm(*write(*made("vae"))).arguments


def test_defaults_of_absent_keys(made, write):
    config, state = made("vae", enc_head=8)
    for key in ("enc_head", "dec_hid", "num_clusters", "batch_num", "dataset_num", "dsbn"):
        del config[key]
    assert read_cellplm(*write(config, state)).arguments["n_heads"] == 8
    # The published code would make a layer norm of an absent norm.
    for key in ("norm", "cat_pe", "enc_mod"):
        without = {name: value for name, value in config.items() if name != key}
        with pytest.raises(BundleError, match=f"any.config.json has no {key}; converted are"):
            read_cellplm(*write(without, state))


def test_what_is_set_aside(made, write):
    found = read_cellplm(*write(*made("vae")))
    unused = found.report["unused"]
    assert set(unused) == {
        "embedder.norm0.weight",
        "embedder.norm0.bias",
        "embedder.pe_enc.missing_pe",
        "embedder.pe_enc.pe_enc.weight",
    }
    assert "positions are off" in unused["embedder.pe_enc.missing_pe"]
    notes = " ".join(found.report["notes"])
    assert "The 7 rows of the batch covariate have no published names and are not kept" in notes
    assert "The 3 rows of the dataset covariate" in notes
    assert "not those of the released models: 30 from ENSG00000000003" in notes
    assert "log1p of raw counts" in notes


def test_covariates_are_their_mean_in_the_bias(made, write, cellplm):
    config, state = made("vae")
    found = read_cellplm(*write(config, state))
    shift = cellplm.mean_covariate(state, "batch") + cellplm.mean_covariate(state, "dataset")
    weight, bias = (
        state[f"decoder.out_layer.dec_1.{part}"].double().numpy() for part in ("weight", "bias")
    )
    bias_found = found.tensors["decoder.hidden.bias"].numpy()
    np.testing.assert_allclose(bias_found, bias + weight @ shift, rtol=0, atol=1e-6)
    assert np.abs(bias_found - bias).max() > 0.1
    assert found.report["used"]["decoder.covariate_layers.0.batch.0.weight"] == (
        "decoder.hidden.bias"
    )


def test_without_covariates(made, write):
    config, state = made("vae", batch_num=0, dataset_num=None)
    assert not any("covariate" in key for key in state)
    found = read_cellplm(*write(config, state))
    torch.testing.assert_close(
        found.tensors["decoder.hidden.bias"], state["decoder.out_layer.dec_1.bias"]
    )


def test_head_of_an_annotation_model(made, write):
    config, state = made("ae", n_classes=6, out_dim=6)
    assert len(state) == 79 - 2 * 16  # As published, but for two layers that are not here.
    found = read_cellplm(*write(config, state))
    assert found.n_classes == 6
    torch.testing.assert_close(found.head["weight"], state["head.mlp.1.weight"])
    assert "names of its classes" in found.report["unused"]["head.mlp.1.bias"]
    assert not any(name.startswith(("decoder.", "gene_decoder")) for name in found.tensors)
    assert "decoder_width" not in found.arguments
    assert "embeds, and cannot impute" in " ".join(found.report["notes"])
    state = {k.replace("mlp.1", "mlp.0"): v for k, v in state.items()}
    assert read_cellplm(*write(config, state)).n_classes == 6


def test_an_embedder_without_decoder(made, write):
    config, state = made("gmvae", decoder=False)
    assert len(state) == 87 - 2 * 16
    found = read_cellplm(*write(config, state))
    assert found.head is None
    assert found.report["variant"] == "gmvae"
    assert found.arguments["decoder"] is False
    assert set(found.report["filled"]) == {"gene_encoder.bias"}
    left = {key for key in state if key.endswith((".var.weight", "y_mu.bias"))}
    assert all("of the loss only" in found.report["unused"][key] for key in left)
    assert not any(name.startswith("variational.") for name in found.tensors)


@pytest.mark.parametrize("entry", ["model_state_dict", "state_dict", None])
@pytest.mark.parametrize("module", [False, True])
def test_wrappers(entry, module, made, write):
    config, state = made("vae")
    found = read_cellplm(*write(config, state, entry=entry, module=module))
    torch.testing.assert_close(found.tensors["gene_encoder.weight"], state[EMB])
    assert set(found.report["used"]) | set(found.report["unused"]) == set(state)
    assert ("began with 'module.'" in " ".join(found.report["notes"])) == module


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", ["gmvae", "vae", "ae"])
@pytest.mark.parametrize("kind", ["whole", "embedder", "annotation"])
def test_a_tensor_too_few_or_of_another_shape_or_type(latent, kind, made, cellplm, tmp_path):
    """Each tensor of the layout in turn: absent, one number longer, float64."""
    extra = {"whole": {}, "embedder": {"decoder": False}, "annotation": {"n_classes": 6}}[kind]
    config, state = made(latent, enc_layers=1, **extra)
    rng = np.random.default_rng(0)
    (tmp_path / "any.config.json").write_text(json.dumps(config))
    tried = 0
    for key in state:
        change = rng.choice(["absent", "longer", "float64"])
        if key.startswith("head.mlp.1.") and change == "absent":
            change = "longer"
        broken = dict(state)
        if change == "absent":
            del broken[key]
        elif change == "longer":
            broken[key] = torch.cat([state[key].reshape(-1), torch.ones(1)])
        else:
            broken[key] = state[key].double()
        torch.save(broken, tmp_path / "any.best.ckpt")
        with pytest.raises(BundleError, match="any.best.ckpt"):
            read_cellplm(tmp_path / "any.best.ckpt", tmp_path / "any.config.json")
        tried += 1
    assert tried == len(state)


@pytest.mark.parametrize("latent", ["gmvae", "vae", "ae"])
def test_a_tensor_too_many(latent, made, write):
    config, state = made(latent)
    state["surprise.weight"] = torch.ones(2)
    with pytest.raises(BundleError, match="has 1 tensors that do not belong.*: 'surprise.weight'"):
        read_cellplm(*write(config, state))


def test_one_layer_more_or_less_than_the_configuration_says(made, write):
    config, state = made("vae")
    with pytest.raises(BundleError, match=r"has no tensor encoder\.layers\.2\.self_attn\.query"):
        read_cellplm(*write({**config, "enc_layers": 3}, state))
    with pytest.raises(BundleError, match=r"has 16 tensors that do not belong.*encoder\.layers\.1"):
        read_cellplm(*write({**config, "enc_layers": 1}, state))


def test_messages_name_what_is_wrong(made, write):
    config, state = made("vae")
    with pytest.raises(BundleError, match=r"feat_enc\.emb is .* \(30, 16\); .*\(29, 16\) is exp"):
        read_cellplm(*write({**config, "gene_list": config["gene_list"][1:]}, state))
    with pytest.raises(BundleError, match=r"batch\.0\.weight .* \(7, 16\); .* \(8, 16\) is exp"):
        read_cellplm(*write({**config, "batch_num": 8}, state))
    bad = {**state, "encoder.layers.0.norm1.bias": torch.full((16,), torch.nan)}
    with pytest.raises(BundleError, match=r"layers\.0\.norm1\.bias has values that are not finite"):
        read_cellplm(*write(config, bad))


def test_variant(made, write):
    config, state = made("gmvae")
    files = write(config, state)
    assert read_cellplm(*files, variant="gmvae").report["variant"] == "gmvae"
    with pytest.raises(BundleError, match="has the tensors of variant='gmvae', not 'vae'"):
        read_cellplm(*files, variant="vae")
    with pytest.raises(ValueError, match="`variant` must be 'auto', 'gmvae', 'vae' or 'ae'"):
        read_cellplm(*files, variant="VAE")


def test_the_configuration_of_the_other_model(made, write):
    """The repository has the configuration of one of the two released models only."""
    config, state = made("vae")
    files = write({**config, "latent_mod": "gmvae"}, state)
    with pytest.raises(
        BundleError, match="says 'gmvae', but any.best.ckpt has the tensors of 'vae'"
    ):
        read_cellplm(*files)
    assert read_cellplm(*files, variant="vae").report["variant"] == "vae"
    del config["latent_mod"]
    assert read_cellplm(*write(config, state)).report["variant"] == "vae"


def test_two_latent_spaces_or_none(made, write):
    config, state = made("vae")
    both = {**made("gmvae")[1], **state}
    without = {k: v for k, v in state.items() if not k.startswith("latent.")}
    for tensors in (both, without, {"a.weight": torch.ones(3, 2)}):
        with pytest.raises(BundleError, match=r"any\.best\.ckpt is no checkpoint of CellPLM"):
            read_cellplm(*write(config, tensors))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"enc_mod": "performer"}, "enc_mod='performer'; converted are networks with enc_mod='fl"),
        ({"dsbn": True}, "dsbn=True; converted"),
        ({"cat_pe": True}, "cat_pe=True"),
        ({"norm": "layernorm"}, "norm='layernorm'"),
        ({"dec_hid": 18}, "dec_hid=18, enc_head=4: the widths must be multiples of 4"),
        ({"dec_hid": 32}, r"decoder.layers.0.0.weight is .*16, 8\).*\(32, 8\) is expected"),
        ({"enc_head": 3}, "enc_hid=16, .*enc_head=3: .* and enc_hid of enc_head"),
        (
            {"enc_layers": 0},
            "enc_layers in any.config.json must be a whole number above 0, found 0",
        ),
        (
            {"enc_hid": None},
            "enc_hid in any.config.json must be a whole number above 0, found noth",
        ),
        ({"enc_hid": 16.0}, "found 16.0"),
        ({"enc_layers": True}, "found True"),
        ({"model_dropout": 1.5}, r"model_dropout in any.config.json must be a number in \[0, 1\)"),
        ({"latent_mod": "vq"}, "latent_mod='vq'; known are 'gmvae', 'vae' or 'ae'"),
        ({"gene_list": None}, "is no configuration of CellPLM: it has no gene_list"),
        (
            {"gene_list": ["A", "B", "A"]},
            "gene_list of any.config.json has genes more than once: 'A'",
        ),
        ({"gene_list": ["A", ""]}, "has no name in row 1: ''"),
        ({"gene_list": ["A", 3]}, "has no name in row 1: 3"),
    ],
)
def test_configurations_that_are_refused(change, message, made, write):
    config, state = made("vae")
    with pytest.raises(BundleError, match=message):
        read_cellplm(*write({**config, **change}, state))


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": NaN}', b"\x80\x04K\x01."])
def test_damaged_configurations(content, made, write):
    path, config = write(*made("vae"))
    config.write_bytes(content)
    with pytest.raises(BundleError, match="any.config.json is (truncated or )?malformed"):
        read_cellplm(path, config)


def test_damaged_and_foreign_weights(made, write):
    path, config = write(*made("vae"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match="not a checkpoint of torch"):
        read_cellplm(path, config)
    for content in ([torch.ones(2)], {"model_state_dict": {}}, {"model_state_dict": {"a": 3}}):
        torch.save(content, path)
        with pytest.raises(BundleError, match="any.best.ckpt holds no state dict"):
            read_cellplm(path, config)


class Payload:
    """Would write a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_the_weights_is_not_run(made, write, tmp_path):
    config, state = made("vae")
    path, config_path = write(config, state)
    torch.save({"model_state_dict": state, "extra": Payload(tmp_path / "ran")}, path)
    with pytest.raises(BundleError, match="was not loaded: besides tensors its pickle names"):
        read_cellplm(path, config_path)
    assert not (tmp_path / "ran").exists()


def test_digest(made, write):
    path, config = write(*made("vae"))
    digest = read_checkpoint(path).sha256
    assert read_cellplm(path, config, expected_sha256=digest).report["sha256"] == digest
    with pytest.raises(BundleError, match="is another file: its sha256 is"):
        read_cellplm(path, config, expected_sha256="0" * 64)
