from __future__ import annotations

import gzip
import io
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from f5_tts.download.archive import MAX_MEMBER_BYTES, MAX_MEMBERS, unpack

NAMES = ("config.yaml", "avg_model.pt")
CONTENT = {"m/config.yaml": b"model: ResNet34\n", "m/avg_model.pt": random.Random(0).randbytes(5000)}
Entry = tarfile.TarInfo | tuple[str, bytes]  # a header only, or a file


def tar(*entries: Entry, **options: str) -> bytes:
    """Make a tar.gz of the model, followed by these entries."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", **options) as written:  # type: ignore[call-overload]
        for entry in [*CONTENT.items(), *entries]:
            name, data = entry if isinstance(entry, tuple) else (entry, b"")
            header = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            header.size = header.size or len(data)
            written.addfile(header, io.BytesIO(data) if data else None)
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def zipped(*entries: zipfile.ZipInfo | tuple[str, bytes], declared: dict[str, int] | None = None) -> bytes:
    """Make a zip of the model, followed by these entries; `declared` replaces sizes in the headers."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as written:
        for entry in [*CONTENT.items(), *entries]:
            name, data = entry if isinstance(entry, tuple) else (entry, b"target")
            written.writestr(name, data)
        for info in written.infolist():
            info.file_size = (declared or {}).get(info.filename, info.file_size)
    return buffer.getvalue()


def of_mode(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[[bytes], str]:
    """Return a function that unpacks an archive, asserts that it is refused, and returns the message.

    It also asserts that nothing was written, neither inside the folder nor outside.
    """

    def refuse(data: bytes) -> str:
        (tmp_path / "in" / "folder").mkdir(parents=True)
        (tmp_path / "archive").write_bytes(data)
        with pytest.raises(ValueError) as refused:
            unpack(tmp_path / "archive", NAMES, tmp_path / "in" / "folder")
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
        assert left == {"archive", "in", "in/folder"}
        return str(refused.value)

    return refuse


@pytest.mark.parametrize("data", [tar(("m/README", b"a")), zipped(("m/README", b"a"))], ids=["tar.gz", "zip"])
def test_the_files_that_are_wanted_come_out_and_no_others(data: bytes, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "archive").write_bytes(data)
    unpack(tmp_path / "archive", NAMES, tmp_path / "folder")
    result = {f"m/{path.name}": path.read_bytes() for path in (tmp_path / "folder").iterdir()}
    assert result == CONTENT


@pytest.mark.parametrize("name", ["../up", "m/../../up", "/etc/up", "..\\up", "C:/up", "c:up", "/m/config.yaml"])
@pytest.mark.parametrize("make", [tar, zipped])
def test_a_member_outside_of_the_folder_is_refused(make: Callable[..., bytes], name: str, refusal):
    assert f"its member {name!r} would lie outside of the folder" in refusal(make((name, b"a")))


@pytest.mark.parametrize(
    "data",
    [
        tar(special("m/link", tarfile.SYMTYPE, "/etc/passwd")),
        tar(special("m/link", tarfile.LNKTYPE, "m/config.yaml")),
        tar(special("m/link", tarfile.FIFOTYPE)),
        tar(special("m/link", tarfile.CHRTYPE)),
        tar(special("m/link", tarfile.BLKTYPE)),
        tar(special("m/link", tarfile.GNUTYPE_SPARSE)),
        zipped(of_mode("m/link", stat.S_IFLNK | 0o777)),
        zipped(of_mode("m/link", stat.S_IFIFO)),
    ],
    ids=["symbolic link", "hard link", "pipe", "character device", "block device", "sparse", "zip link", "zip pipe"],
)
def test_a_link_or_device_is_refused(data: bytes, refusal):
    assert "its member 'm/link' is a link or device" in refusal(data)


def test_a_rare_way_of_packing_is_refused(refusal):
    rare = zipfile.ZipInfo("m/rare")
    rare.compress_type = zipfile.ZIP_BZIP2
    assert "'m/rare' is a file with an unusual compression method" in refusal(zipped(rare))


def test_a_name_that_begins_with_nul_and_so_is_none_is_refused(refusal):
    assert "its member '\\x00' would lie outside of the folder" in refusal(zipped(("@", b"b")).replace(b"@", b"\0"))


@pytest.mark.parametrize("make", [tar, zipped])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(make: Callable[..., bytes], refusal):
    assert "'m/config.yaml' occurs twice" in refusal(make(("m/config.yaml", b"b")))


@pytest.mark.parametrize("make", [tar, zipped])
def test_two_spellings_of_one_name_are_refused(make: Callable[..., bytes], refusal):
    assert "'./m//config.yaml' occurs twice" in refusal(make(("./m//config.yaml", b"b")))


@pytest.mark.parametrize("name", ["m", "m/config.yaml/below"])
@pytest.mark.parametrize("make", [tar, zipped])
def test_a_file_where_a_folder_should_be_is_refused(make: Callable[..., bytes], name: str, refusal):
    assert f"{name!r} lies below a file, or is both a file and a folder" in refusal(make((name, b"b")))


@pytest.mark.parametrize("make", [tar, zipped])
def test_more_bytes_than_such_an_archive_can_hold_are_refused(make: Callable[..., bytes], refusal):
    assert "more bytes than allowed" in refusal(make(("m/zeros", bytes(2**21))))


def test_a_bomb_in_a_header_is_refused(refusal):
    header = tarfile.TarInfo("m/a")
    header.pax_headers = {"comment": "a" * 2**22}
    assert "more bytes than allowed" in refusal(tar(header, format=tarfile.PAX_FORMAT))  # type: ignore[arg-type]


def test_a_file_that_declares_too_much_is_refused_before_it_is_read(refusal):
    large = tarfile.TarInfo("m/large")
    large.size = MAX_MEMBER_BYTES + 1
    assert f"'m/large': {MAX_MEMBER_BYTES + 1} bytes" in refusal(gzip.compress(large.tobuf()))


def test_files_that_together_declare_too_much_are_refused(refusal):
    parts = [(f"m/{part}", b"a") for part in range(3)]
    data = zipped(*parts, declared={name: 2**19 for name, _ in parts})
    assert "('m/1': 524288 bytes)" in refusal(data)  # with the model, the second half of a MiB exceeds the limit


def test_too_many_members_are_refused(refusal):
    assert f"more than {MAX_MEMBERS} members" in refusal(tar(*[(f"m/{i}", b"") for i in range(MAX_MEMBERS)]))


@pytest.mark.parametrize("make", [tar, zipped])
def test_an_archive_without_the_model_or_with_two_is_refused(make: Callable[..., bytes], refusal, tmp_path: Path):
    two = make(*[(f"other/{name}", b"b") for name in NAMES])
    assert "2 of its folders contain config.yaml and avg_model.pt" in refusal(two)


def test_wanted_files_in_different_folders_are_no_model(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "archive", "w") as written:
        written.writestr("a/config.yaml", b"a")
        written.writestr("b/avg_model.pt", b"b")
    with pytest.raises(
        ValueError, match=r"archive is refused: 0 of its folders contain config\.yaml and avg_model\.pt"
    ):
        unpack(tmp_path / "archive", NAMES, tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>not here</html>", tar()[:-2000], tar()[:-4] + bytes(4), zipped()[:-30], gzip.compress(b"no tar")],
    ids=["empty", "a page", "half a tar.gz", "a wrong sum", "half a zip", "another gz"],
)
def test_what_is_no_whole_archive_is_named_so(data: bytes, refusal):
    assert "is not a complete zip or tar.gz" in refusal(data)


def test_an_encrypted_member_is_refused(tmp_path: Path):
    data = bytearray(zipped())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # each header contains its flags
        at = -1
        while (at := data.find(signature, at + 1)) >= 0:
            data[at + flags] |= 1
    (tmp_path / "archive").write_bytes(data)
    with pytest.raises(ValueError, match="encrypted"):
        unpack(tmp_path / "archive", NAMES, tmp_path)


@pytest.mark.parametrize("data", [tar(), zipped()], ids=["tar.gz", "zip"])
def test_a_damaged_archive_gives_a_sentence_or_the_right_contents(data: bytes, tmp_path: Path):
    chance = random.Random(1)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (tmp_path / "archive").write_bytes(damaged)
        try:
            unpack(tmp_path / "archive", NAMES, tmp_path)
        except ValueError:
            continue
        assert all((tmp_path / name).read_bytes() == CONTENT[f"m/{name}"] for name in NAMES)
