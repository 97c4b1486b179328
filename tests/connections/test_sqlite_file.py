"""A file system where WAL cannot work is refused by name, before anything is written to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from msgov.call import PERMANENT
from msgov.connections.sqlite_file import StoreError, connect, filesystem, use_wal

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /srv rw - nfs4 server:/srv rw
31 30 8:2 / /srv/local\\040disk rw shared:2 master:1 - xfs /dev/sdb1 rw
32 22 0:41 / /mnt rw - cifs //server/mnt rw
33 32 0:42 / /mnt rw - tmpfs none rw
not a mount
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", "ext4"),
        ("/srv", "nfs4"),
        ("/srv/deep/er", "nfs4"),
        ("/srv/local disk/x", "xfs"),
        ("/srvother", "ext4"),
        ("/mnt/x", "tmpfs"),
    ],
)
def test_file_system_is_that_of_the_nearest_mount(folder: str, kind: str) -> None:
    """The longest mount point above a folder holds it; on the same point, the one mounted last."""
    assert filesystem(Path(folder), MOUNTS) == kind


def test_unknown_system_has_no_name() -> None:
    """Where nothing can be read, the journal mode's answer is the only test."""
    assert filesystem(Path("/"), "") == ""


def test_journal_mode_that_stays_is_refused(tmp_path: Path) -> None:
    """SQLite answers with the old mode where it cannot share memory; silence would mean a broken file later."""
    connection = connect(tmp_path / "x.db", make=True, vfs="unix-dotfile")
    try:
        with pytest.raises(StoreError, match="cannot share memory between processes") as caught:
            use_wal(connection, tmp_path / "x.db")
    finally:
        connection.close()
    assert caught.value.reason == "store_unusable"
    assert caught.value.verdict is PERMANENT
    assert str(tmp_path / "x.db") in str(caught.value)
