"""Files that are written as a whole and read without executing anything."""

from __future__ import annotations

from ._files import (
    ALTERED,
    MAX_JSON_BYTES,
    as_path,
    check_place,
    check_replaceable,
    check_version,
    describe_bytes,
    find_previous,
    parse_json,
    read_bytes,
    recover,
    replace_file,
    replace_folder,
)
from ._tables import NameTable, file_digest, read_table, read_text_table, texts
from ._trees import (
    decode,
    encode,
    json_sha256,
    load_tree,
    save_tree,
    tensors_from_bytes,
    tensors_to_bytes,
    to_json,
)
