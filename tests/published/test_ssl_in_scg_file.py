"""Published checkpoints are known by their content, and no tensor of them is overlooked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scssl._errors import BundleError
from scssl.published._ssl_in_scg import read_published

G = 60
FAMILIES = ["autoencoder", "nb_autoencoder", "byol", "simsiam", "barlow_twins", "barlow_twins_raw"]
FAMILIES += ["classifier"]


@pytest.fixture
def path(tmp_path):
    # The name must not matter: it says something else for all but one of the families.
    return tmp_path / "RandomMask.ckpt"


def read(path, **kwargs):
    return read_published(path, n_genes=G, **kwargs)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_is_used_or_set_aside_for_a_reason(family, path, published):
    state = published.checkpoint(path, family, G)
    found = read(path)
    assert found.family == family.removesuffix("_raw")
    used, unused = found.report["used"], found.report["unused"]
    assert set(used) | set(unused) == set(state)
    assert not set(used) & set(unused)
    assert set(used.values()) == set(found.tensors)
    assert all(len(reason) > 10 for reason in unused.values())
    for source, name in used.items():
        expected = state[source].T if name == "gene_encoder.weight" else state[source]
        torch.testing.assert_close(found.tensors[name], expected, rtol=0, atol=0)
    entries = found.report["other_entries"]
    assert ("optimizer_states" in entries) == (family != "barlow_twins_raw")
    assert "state_dict" not in entries


@pytest.mark.parametrize(
    ("family", "encoder", "n_used"),
    [
        ("autoencoder", "encoder", 20),
        ("nb_autoencoder", "encoder", 10),
        ("byol", "inner_model", 8),
        ("simsiam", "inner_model", 8),
        ("barlow_twins", "barlow_twins.backbone", 10),
        ("barlow_twins_raw", "backbone", 10),
        ("classifier", "classifier", 10),
    ],
)
def test_which_are_used(family, encoder, n_used, path, published):
    published.checkpoint(path, family, G)
    found = read(path)
    assert len(found.report["used"]) == n_used
    assert found.report["used"][f"{encoder}.0.weight"] == "gene_encoder.weight"
    assert found.report["used"][f"{encoder}.9.bias"] == "encoder.2.layers.6.bias"
    byol = family in ("byol", "simsiam")
    assert (f"{encoder}.12.weight" in found.report["used"]) != byol
    assert found.arguments["latent_activation"] == (byol or family == "classifier")
    assert found.arguments["activation"] == ("relu" if family == "classifier" else "selu")
    assert found.arguments["decoder"] == (family == "autoencoder")
    assert found.arguments["n_latent"] == (256 if byol else 64)
    assert found.arguments["output_activation"] is None


def test_reasons(path, published):
    published.checkpoint(path, "byol", G)
    unused = read(path).report["unused"]
    assert unused["inner_model.12.weight"] == "untrained: the loss saw the layer before it"
    assert unused["byol.net.3.bias"] == "the same tensor as inner_model.3.bias"
    assert "never moves it" in unused["byol.target_encoder.net.0.weight"]
    assert "never moves it" in unused["byol.target_encoder.projector.1.num_batches_tracked"]
    published.checkpoint(path, "nb_autoencoder", G)
    unused = read(path).report["unused"]
    assert "log-normalised" in unused["decoder.0.12.weight"]
    assert unused["px_r"].startswith("dispersion")


def test_head_of_a_classifier(path, published):
    state = published.checkpoint(path, "classifier", G)
    without, found = read(path), read(path, use_head=True)
    for made in (without, found):
        assert made.n_classes == 164
        torch.testing.assert_close(made.head["weight"], state["classifier.15.weight"])
    assert "CellTypeClassifier" in without.report["unused"]["classifier.15.weight"]
    assert found.report["used"]["classifier.15.weight"] == "head.weight"
    assert {"class_weights", "child_lookup"} <= set(found.report["unused"])
    published.checkpoint(path, "byol", G)
    with pytest.raises(BundleError, match="no classifier: it is an encoder trained by BYOL"):
        read(path, use_head=True)


def test_a_classifier_without_the_buffers_of_training(path, published):
    state = published.state_dict("classifier", G)
    del state["class_weights"], state["child_lookup"]
    published.write(path, state)
    assert read(path).n_classes == 164


def test_legacy_output(path, published):
    published.checkpoint(path, "autoencoder", G)
    assert read(path, legacy_output=True).arguments["output_activation"] == "sigmoid"
    for family in ("nb_autoencoder", "barlow_twins", "classifier"):
        published.checkpoint(path, family, G)
        with pytest.raises(BundleError, match="legacy_output=True is the sigmoid"):
            read(path, legacy_output=True)


def test_a_lightning_file_without_wrapper_and_the_reverse(path, published):
    for family in ("autoencoder", "barlow_twins_raw"):
        state = published.state_dict(family, G)
        for raw in (True, False):
            published.write(path, state, raw=raw)
            assert read(path).family == family.removesuffix("_raw")


def test_digest_is_checked_and_recorded(path, published):
    published.checkpoint(path, "autoencoder", G)
    digest = read(path).report["sha256"]
    assert len(digest) == 64
    assert read(path, expected_sha256=digest).report["size"] == path.stat().st_size
    with pytest.raises(BundleError, match="is another file"):
        read(path, expected_sha256="0" * 64)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tensor_too_many(family, path, published):
    state = published.state_dict(family, G)
    state["surprise.weight"] = torch.ones(2)
    published.write(path, state)
    with pytest.raises(BundleError, match="has 1 tensors that do not belong.*: 'surprise.weight'"):
        read(path)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tensor_too_few_or_of_another_shape_or_type(family, path, published):
    """Each tensor of the layout in turn: absent, one row longer, float64."""
    state = published.state_dict(family, G)
    optional = {"class_weights", "child_lookup"}
    first = ("encoder.0.weight", "classifier.0.weight", "backbone.0.weight")
    first += ("inner_model.0.weight",)
    rng = np.random.default_rng(0)
    keys = [key for key in state if key not in optional and not key.endswith(first)]
    for key in rng.permutation(keys)[:4]:
        for change in ("absent", "longer", "float64"):
            broken = dict(state)
            if change == "absent":
                del broken[key]
            elif change == "longer":
                broken[key] = torch.cat([state[key].reshape(-1), torch.ones(1)])
            else:
                broken[key] = state[key].double()
            published.write(path, broken, raw=True)
            with pytest.raises(BundleError, match=r"RandomMask\.ckpt.*"):
                read(path)


def test_messages_name_what_is_wrong(path, published):
    state = published.state_dict("autoencoder", G)
    published.write(path, {k: v for k, v in state.items() if k != "decoder.0.6.bias"})
    with pytest.raises(BundleError, match=r"has no tensor decoder\.0\.6\.bias; it has 'decoder"):
        read(path)
    published.write(path, {**state, "encoder.3.weight": torch.ones(3, 4)})
    with pytest.raises(
        BundleError,
        match=r"encoder\.3\.weight is torch.float32 of shape \(3, 4\); .* \(512, 512\) is expected",
    ):
        read(path)
    published.write(path, {**state, "encoder.3.bias": state["encoder.3.bias"].double()})
    with pytest.raises(BundleError, match=r"encoder\.3\.bias is torch\.float64"):
        read(path)
    bad = state["encoder.3.bias"].clone()
    bad[5] = torch.nan
    published.write(path, {**state, "encoder.3.bias": bad})
    with pytest.raises(BundleError, match=r"encoder\.3\.bias has values that are not finite"):
        read(path)


@pytest.mark.parametrize(
    ("family", "key"),
    [("byol", "byol.net.3.bias"), ("byol", "byol.online_encoder.net.0.weight")]
    + [("barlow_twins", "inner_model.9.weight")],
)
def test_two_names_of_one_tensor_must_agree(family, key, path, published):
    state = published.state_dict(family, G)
    state[key] = state[key] + 1e-3
    published.write(path, state)
    with pytest.raises(BundleError, match=f"{key} and .* should be one tensor"):
        read(path)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("width", "message"),
    [
        (2000, r"takes 2,000 inputs \(.*shape \(512, 2000\)\), and the table of genes has 60"),
        (G + 3, "takes 63 inputs .* 3 are besides the genes, like .* integration"),
    ],
)
def test_other_widths(family, width, message, path, published):
    state = published.state_dict(family, width)
    published.write(path, state)
    with pytest.raises(BundleError, match=message):
        read(path)


def test_small_files_are_refused_by_the_public_default(path, published):
    published.checkpoint(path, "autoencoder", G)
    with pytest.raises(BundleError, match="takes 60 inputs .* table of genes has 19,331"):
        read_published(path)


def test_cite(path, published):
    published.checkpoint(path, "cite", G)
    with pytest.raises(BundleError, match=r"shape \(256, 2146\), like the CITE-seq models"):
        read(path)


def test_zinb_is_not_known(path, published):
    state = published.state_dict("nb_autoencoder", G)
    state["decoder.0.12.weight"] = torch.ones(3 * G, 512)
    published.write(path, state)
    with pytest.raises(BundleError, match=r"decoder\.0\.12\.weight .*\(180, 512\); .*\(120, 512\)"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"model.0.weight": torch.ones(3, 2)}}, r"model\.0\.weight \(3, 2\)"),
        ({"model.0.weight": torch.ones(3, 2)}, "has no layout that is known here"),
        ({"backbone.0.weight": torch.ones(512, G)}, "has no layout that is known here"),
        ({"inner_model.0.weight": torch.ones(512, G)}, "has no layout that is known here"),
        ({"state_dict": {}}, "holds no state dict: a dict"),
        ({"state_dict": [torch.ones(1)]}, "holds no state dict: a list"),
        ({"state_dict": {"a": 3}}, "'a' is a int, no tensor"),
        ({"epoch": 3}, "'epoch' is a int, no tensor"),
        ({"state_dict": {3: torch.ones(1)}}, "3 is a Tensor"),
        (torch.ones(3), "holds no state dict: a Tensor"),
        ({"encoder.0.weight": torch.ones(512)}, r"shape \(512,\)"),
        ({"encoder.0.weight": torch.tensor(1.0)}, r"takes no inputs .*shape \(\)"),
    ],
)
def test_foreign_content(content, message, path):
    torch.save(content, path)
    with pytest.raises(BundleError, match=message):
        read(path)
