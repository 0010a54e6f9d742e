"""A study in a file: data sets, methods and what `scssl.tl.benchmark` is asked of them."""

from __future__ import annotations

import copy
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
            name: self._data_set(name, dict(about or {}), shared) for name, about in data.items()
        }

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
    if isinstance(given, list):
        return given
    if not isinstance(given, Mapping):
        raise ValueError(f"`methods` must be names, or names with arguments; found {given!r}.")
    return {name: _anything(dict(one)) if one else {} for name, one in given.items()}


def _override(asked: dict[str, Any], word: str) -> None:
    """Set what ``methods.SimCLR.temperature=0.1,0.2`` says; several values of an argument are a sweep."""
    path, is_set, text = word.partition("=")
    keys = path.split(".")
    if not is_set or not all(keys):
        raise ValueError(
            f"{word!r} sets nothing. It takes a key, with dots to what is inside, an equals sign and a value."
        )
    values: Any = text.split(",") if "," in text else text
    if keys[0] == "method" and len(keys) == 2:
        # Of every method of the study that has arguments of its own.
        for name in asked.get("methods") or {}:
            _override(asked, f"methods.{name}.{keys[1]}={text}")
        return
    methods = asked.get("methods")
    if isinstance(methods, list):
        asked["methods"] = {name: {} for name in methods}
    place = asked
    for key in keys[:-1]:
        if not isinstance(place.get(key), Mapping):
            if key not in place and len(keys) > 2 and key == keys[1]:
                known = ", ".join(map(str, place)) or "nothing"
                raise ValueError(f"{word}: there is no {key!r} in {keys[0]}; there is {known}.")
            place[key] = {}
        place[key] = copy.copy(place[key])
        place = place[key]
    if keys[0] == "methods" and len(keys) == 3 and isinstance(values, list):
        place["sweep"] = {**(place.get("sweep") or {}), keys[-1]: values}
        return
    if keys[0] == "methods" and isinstance(place.get("sweep"), Mapping):
        place["sweep"] = {k: v for k, v in place["sweep"].items() if k != keys[-1]}
    place[keys[-1]] = values
