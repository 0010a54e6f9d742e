"""A study in a file: data sets, methods and what `scssl.tl.benchmark` is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scssl._errors import MissingKeyError

from ._options import Option, _anything, options_of, read_configuration

if TYPE_CHECKING:
    from anndata import AnnData

# Where it is read from is said of each data set, not by arguments of Python.
_DATA = ("file", "subset")
_SHARED = ("out", "n_jobs", "progress", "dry_run", "name")


class Study:
    """What a file and the words after it ask for, checked as far as can be without the data."""

    def __init__(
        self,
        file: str | Path,
        overrides: Sequence[str] = (),
        *,
        read: Callable[[Path], AnnData] | None = None,
    ) -> None:
        import anndata

        from scssl import tl

        self._read = anndata.read_h5ad if read is None else read
        self.file = Path(file).expanduser()
        self.known = options_of(tl.benchmark, skip=("adata", *_SHARED))
        asked = read_configuration(str(file))
        for word in overrides:
            _override(asked, word)
        data, self.methods = asked.pop("data", None), asked.pop("methods", None)
        if not isinstance(data, Mapping) or not data:
            raise ValueError(
                f"{file} must have data sets by name, such as `data: {{pbmc3k: {{file: pbmc3k.h5ad}}}}`."
            )
        shared = self._arguments(asked, "")
        self.data = {
            name: self._data_set(name, self._about(name, about), shared)
            for name, about in data.items()
        }

    def _about(self, name: str, about: Any) -> dict[str, Any]:
        """What is said of a data set: nothing, its file, or more by name."""
        if _is_nothing(about):
            return {}
        if isinstance(about, str):
            return {"file": about}
        if not isinstance(about, Mapping):
            raise ValueError(
                f"{self.file}: data.{name} must be a file or say more by name, such as "
                f"`{{file: {name}.h5ad}}`; found {about!r}."
            )
        return dict(about)

    def _data_set(
        self, name: str, about: dict[str, Any], shared: dict[str, Any]
    ) -> tuple[Path, dict[str, list[str]], dict[str, Any]]:
        path = self._path(str(about.pop("file", f"{name}.h5ad")))
        subset = about.pop("subset", None) or {}
        kept = {key: v if isinstance(v, list) else [v] for key, v in dict(subset).items()}
        return path, kept, {**shared, **self._arguments(about, f"data.{name}.")}

    def _arguments(self, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        found = {}
        for name, value in given.items():
            if name not in self.known:
                from scssl._checks import close_to

                close = close_to(name, [*self.known, "data", "methods", *_DATA])
                hint = f" Did you mean {close!r}?" if close else ""
                raise ValueError(f"{self.file}: there is no {where}{name}.{hint}")
            try:
                found[name] = _read(self.known[name], value)
            except ValueError as error:
                raise ValueError(f"{self.file}: {where}{name} {error}.") from error
        return found

    def _path(self, file: str) -> Path:
        """A file beside the study, or in the folder of data sets."""
        from scssl._settings import settings

        path = Path(file).expanduser()
        places = [path] if path.is_absolute() else [self.file.parent / path]
        if not path.is_absolute() and settings.data_dir is not None:
            places.append(settings.data_dir / path)
        found = next((place for place in places if place.exists()), None)
        if found is None:
            looked = " and ".join(map(str, places))
            raise FileNotFoundError(f"There is no file {file}: looked for {looked}.")
        return found

    def read(self, name: str) -> tuple[AnnData, dict[str, Any]]:
        """The cells of a data set, and the arguments of the call."""
        path, subset, _ = self.data[name]
        adata = self._read(path)
        for key, values in subset.items():
            if key not in adata.obs:
                raise MissingKeyError(f"{path}: obs has no column {key!r}, which `subset` names.")
            adata = adata[adata.obs[key].astype(str).isin(values)].copy()
        return adata, self.asked(name)

    def asked(self, name: str) -> dict[str, Any]:
        """The arguments of the call for a data set."""
        arguments = {**self.data[name][2], "name": name}
        if self.methods is not None:
            arguments["methods"] = _methods(self.methods)
        return arguments


def _read(option: Option, value: Any) -> Any:
    if option.name == "seeds" and not isinstance(value, list):
        return int(value)
    return option.read(value)


def _methods(given: Any) -> Any:
    if isinstance(given, (str, list)):
        return given
    if not isinstance(given, Mapping):
        raise ValueError(f"`methods` must be names, or names with arguments; found {given!r}.")
    return {
        name: {} if _is_nothing(one) else one if isinstance(one, str) else _anything(dict(one))
        for name, one in given.items()
    }


def _is_nothing(value: Any) -> bool:
    """Whether nothing stands there; values are texts, and YAML has several for none."""
    return value is None or value in ("", "null", "~")


def _override(asked: dict[str, Any], word: str) -> None:
    """Set what ``methods.SimCLR.temperature=0.1,0.2`` says; several values of an argument are a sweep."""
    path, is_set, text = word.partition("=")
    keys = path.split(".")
    if not is_set or not all(keys):
        raise ValueError(
            f"{word!r} sets nothing. A key and its value are needed, as in seeds=2 for seeds."
        )
    methods = asked.get("methods")
    if len(keys) > 1 and isinstance(methods, (str, list)):
        listed = [methods] if isinstance(methods, str) else methods
        methods = asked["methods"] = {name: {} for name in listed}
    if keys[0] == "method" and len(keys) == 2:
        from scssl.tl import takes_argument

        # Of every method of the study that has such an argument.
        for name, one in (methods or {}).items():
            method = one if isinstance(one, str) and one else dict(one or {}).get("method", name)
            if takes_argument(method, keys[1]):
                _override(asked, f"methods.{name}.{keys[1]}={text}")
        return
    values = [_value(one) for one in _split(text)]
    place = asked
    for depth, key in enumerate(keys[:-1]):
        if key not in place and depth == 1:
            known = ", ".join(map(str, place)) or "nothing"
            raise ValueError(f"{word}: there is no {key!r} in {keys[0]}; there is {known}.")
        one = place.get(key)
        place[key] = {"method": one} if isinstance(one, str) and one else dict(one or {})
        place = place[key]
    if keys[0] == "methods" and len(keys) == 3:
        sweep = {k: v for k, v in dict(place.get("sweep") or {}).items() if k != keys[-1]}
        if len(values) > 1:
            place["sweep"] = {**sweep, keys[-1]: values}
            return
        if "sweep" in place:
            place["sweep"] = sweep
    place[keys[-1]] = values[0] if len(values) == 1 else values


def _split(text: str) -> list[str]:
    """Parts between commas that stand in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _value(text: str) -> Any:
    """A word, or a list or mapping of words in brackets."""
    if not text.startswith(("[", "{")):
        return text
    import yaml  # type: ignore[import-untyped]

    return yaml.load(text, Loader=yaml.BaseLoader)
