"""One matrix of a MATLAB file, read in a process of its own.

SciPy's reader trusts what a file says of itself: of twelve runs over up to 400 files with a few bytes changed, ten
ended with a segmentation or bus fault (SciPy 1.17.1). Here that ends a child, and is an error that names the file.
"""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

READ_SECONDS = 600
"""The largest file that Ciao has is read in two."""

_REFUSED = 3


def read_matrix(
    path: Path,
    variables: Sequence[str],
    columns: Sequence[str],
    *,
    unread: Sequence[str] = (),
    more: bool = False,
) -> NDArray[np.int64]:
    """The one of `variables` that the file holds, as whole numbers [rows, columns read].

    Those of `columns` that are `unread`, and with `more` any that follow, may hold what they like. Raises
    ConfigurationError naming the file and what was expected.
    """
    from features.errors import ConfigurationError  # the child runs this file by itself

    command = [sys.executable, "-I", __file__, str(path), *map(",".join, (variables, columns, unread))]
    command += ["more"] if more else []
    try:
        done = subprocess.run(command, capture_output=True, timeout=READ_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ConfigurationError(f"{path} cannot be read as a MATLAB file within {READ_SECONDS} seconds") from error
    if done.returncode == _REFUSED:
        raise ConfigurationError(f"{path}: {done.stderr.decode(errors='replace')}")
    if done.returncode != 0:
        told = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        why = signal.Signals(-done.returncode).name if done.returncode < 0 else told
        raise ConfigurationError(f"{path} cannot be read as a MATLAB file: {why}")
    found: NDArray[np.int64] = np.load(io.BytesIO(done.stdout), allow_pickle=False)
    return found


def _main(path: str, variables: Sequence[str], columns: Sequence[str], unread: Sequence[str], *, more: bool) -> None:
    """What the child does: the matrix to standard output, or one sentence to standard error."""
    from scipy.io import loadmat

    held = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
    name = next((variable for variable in variables if variable in held), None)
    if name is None:
        _refuse(f"expected a variable {' or '.join(variables)}, got {', '.join(held)}")
    values = np.asarray(held[name])
    if more and values.ndim == 2:
        values = values[:, : len(columns)]
    if values.ndim != 2 or values.shape[1] != len(columns):
        _refuse(f"expected {name} of columns {', '.join(columns)}, got shape {np.shape(held[name])}")
    if values.dtype.kind not in "iuf":
        _refuse(f"expected {name} of numbers, got {values.dtype}")
    read = [column for column in columns if column not in unread]
    values = values[:, [columns.index(column) for column in read]]
    last = 2.0**53 if values.dtype.kind == "f" else 2.0**63  # from there on neighbours are one number
    broken = np.argwhere(~np.isfinite(values) | (values != np.floor(values)) | (np.abs(values) >= last))
    if len(broken):
        row, column = broken[0]
        _refuse(f"expected whole numbers in {name}, got {values[row, column]} as {read[column]} in row {row}")
    written = io.BytesIO()  # a pipe has no position, which NumPy asks for
    np.save(written, values.astype(np.int64), allow_pickle=False)
    sys.stdout.buffer.write(written.getbuffer())


def _refuse(sentence: str) -> None:
    sys.stderr.write(sentence)
    sys.exit(_REFUSED)


if __name__ == "__main__":
    _main(sys.argv[1], *(listed.split(",") for listed in sys.argv[2:5]), more=sys.argv[5:] == ["more"])
