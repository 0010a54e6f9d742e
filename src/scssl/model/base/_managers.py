"""What scvi-tools remembers of data and models, for as long as there are any."""

from __future__ import annotations

import weakref
from typing import Any

from scvi.data import AnnDataManager
from scvi.data._constants import _SCVI_UUID_KEY


class WeakManager(AnnDataManager):
    """Knows data without keeping them in memory, as classes of scvi-tools never forget a manager."""

    _data: weakref.ref[Any] | None = None

    @property
    def adata(self) -> Any:
        """The data, `None` when there are none any more."""
        return None if self._data is None else self._data()

    @adata.setter
    def adata(self, adata: Any) -> None:
        self._data = None if adata is None else weakref.ref(adata)

    @property
    def adata_uuid(self) -> str:
        """Identifier of the data, also when they are gone."""
        identifier: str = self._registry[_SCVI_UUID_KEY]
        return identifier

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles of a model have data of their own, which the copy knows.
        return {**vars(self), "_data": self.adata}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.adata = state["_data"]


def forget_with(owner: Any, store: dict[str, Any], key: str) -> None:
    """Drop an entry of a store when its owner is gone, unless it is somebody else's by then."""
    weakref.finalize(owner, _forget, store, key, id(store.get(key))).atexit = False


def _forget(store: dict[str, Any], key: str, entry: int) -> None:
    if id(store.get(key)) == entry:
        del store[key]
