"""Where official files are found: the raw folder, mirrors, the authors' server. Always verified."""

import contextlib
import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.request import url2pathname

from barlow_atlas.data.catalog import DataSet
from barlow_atlas.data.download import below, fetch, public, taken_apart
from barlow_atlas.data.errors import DataError

Report = Callable[[str], None]
_Fault = Callable[[DataSet, Path], str | None]

_SEPARATOR = re.escape(os.pathsep)
_MIRROR = re.compile(
    # A colon separates folders, yet it is a part of a URL: behind its scheme, between user and
    # password, and before its port.
    rf"(?i:[a-z][a-z0-9+.-]*)://(?:[^/]*@)?(?:\[[^\]]*\]|[^/{_SEPARATOR}]*)(?::\d+)?"
    rf"(?:/[^{_SEPARATOR}]*)?"
    rf"|[^{_SEPARATOR}]+"
)
PARTIAL = ".part"
SCHEMES = ("http", "https", "file")


def parse_mirrors(text: str) -> tuple[str, ...]:
    """The folders and URLs in a text like that of PATH, separated by os.pathsep, in their order.

    >>> parse_mirrors("/data:http://me:secret@cache:8000/sets:../mine")
    ('/data', 'http://me:secret@cache:8000/sets', '../mine')
    """
    return tuple(m for m in (match.strip() for match in _MIRROR.findall(text)) if m)


def locate(data_set: DataSet, raw: Path, mirrors: Sequence[str], report: Report) -> Path:
    """The verified official archive, or the folder with the verified official files.

    Looks into `raw`, then into each mirror (a folder, a file: URL or an http(s): URL), then
    downloads the official archive, or the single files of a data set that has none. What comes
    over http(s) is kept in `raw`, but only once its checksum is right; nothing else changes `raw`,
    and mirrors are read where they are. A damaged copy is reported and the next place tried.
    Raises DataError, which lists every place with what was found there.

    An archive of which no checksum is published is compared by its size alone, if that is known.
    """
    archive, official_folder = data_set.archive, _official_folder(data_set)
    findings: list[str] = []

    def note(place: str, finding: str) -> None:
        findings.append(f"{place}: {finding}")
        report(f"{data_set.title}: {findings[-1]}")

    for leftover in sorted(raw.glob(".download-*")) if raw.is_dir() else ():
        report(f"{leftover} remains of a download that was ended; delete it if none is running")
    for place in (str(raw), *mirrors):
        try:
            folder = folder_of(place)
            copy, finding = (
                _in_url(data_set, place, raw, report)
                if folder is None
                else _in_folder(data_set, folder)
            )
        except DataError as error:
            copy, finding = None, str(error)
        if copy:
            report(f"{data_set.title}: using {copy}")
            _forget_parts(data_set, raw)
            return copy
        note(public(place) if _scheme(place) else place, finding)
    urls = [file.url for file in data_set.files if file.url]
    if archive is None and len(urls) == len(data_set.files):
        try:
            for url, file in zip(urls, data_set.files, strict=True):
                target = raw / official_folder / file.name
                _download(url, target, file.md5, file.size, report)
            return raw / official_folder
        except DataError as error:
            note(", ".join(urls), str(error))
    if archive and archive.url:
        try:
            return _download(archive.url, raw / archive.name, archive.md5, archive.size, report)
        except DataError as error:
            note(archive.url, str(error))
    raise DataError(_not_found(data_set, raw, findings))


def _scheme(place: str) -> str:
    """Of a URL, in lower case; empty for a folder."""
    scheme, separator, _ = place.partition("://")
    return scheme.lower() if separator else ""


def folder_of(place: str) -> Path | None:
    """The folder that a mirror is; None if it is an http(s) URL.

    Raises:
        DataError: it is no URL, or one of another scheme.
    """
    match _scheme(place):
        case "":
            return Path(place).expanduser()
        case "file":
            return Path(url2pathname(taken_apart(place).path))
        case "http" | "https":
            taken_apart(place)
            return None
        case scheme:
            known = ", ".join(SCHEMES)
            raise DataError(f"the scheme {scheme} is not supported; {known} and folders are")


def _forget_parts(data_set: DataSet, raw: Path) -> None:
    """Removes what was begun of this data set at places that could not give it whole."""
    folder = raw / _official_folder(data_set)
    archive = [raw / data_set.archive.name] if data_set.archive else []
    for target in (*archive, *(folder / file.name for file in data_set.files)):
        target.with_name(f".{target.name}{PARTIAL}").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it holds files, or is not there
        folder.rmdir()


def _official_folder(data_set: DataSet) -> str:
    if data_set.official_folder is None:
        raise DataError(f"{data_set.title} has no official files: it is not looked up by name.")
    return data_set.official_folder


def official_files_of(data_set: DataSet) -> str:
    """What must lie in the raw folder or a mirror, in words, with how it is known."""
    if archive := data_set.archive:
        size = f"{archive.size:,} bytes, " if archive.size else ""
        checksum = f"md5 {archive.md5}" if archive.md5 else "no checksum is published"
        return (
            f"the archive {archive.name} ({size}{checksum}), or the folder {archive.folder}/ with "
            "the official files in it"
        )
    told = []
    for file in data_set.files:
        checksum = f"md5 {file.md5}" if file.md5 else "no checksum is published"
        beside = f", or unpacked: {file.unpacked}" if file.unpacked else ""
        told.append(f"{file.name} ({checksum}{beside})")
    folder = _official_folder(data_set)
    return f"the folder {folder}/ with the official files {', '.join(told)}"


def lacking(data_set: DataSet, folder: Path) -> list[str]:
    """The official files of which a folder has neither themselves nor what they unpack to."""
    return [
        file.name
        for file in data_set.files
        if not (folder / file.name).exists()
        and not (file.unpacked and (folder / file.unpacked).exists())
    ]


def to_unpack(data_set: DataSet, folder: Path) -> str | None:
    """Which archive in a folder must be unpacked there, in words; None if none must.

    Images that are stored as their files are cannot be read within a compressed archive. Theirs is
    the first file; the lists that follow are read where they are.
    """
    for file in data_set.files[:1]:
        compressed = data_set.image_size is None and file.name.endswith(".tar.gz")
        if compressed and file.unpacked and not (folder / file.unpacked).exists():
            return (
                f"{file.name} is compressed as a whole, where each image is stored as its file is: "
                f"unpack it in {folder}, to {file.unpacked}"
            )
    return None


def _not_found(data_set: DataSet, raw: Path, findings: list[str]) -> str:
    archive, folder = data_set.archive, _official_folder(data_set)
    expected = f"{official_files_of(data_set)}."
    if archive is None:
        wanted, offered = f"{folder}/", f"{folder}/"
    else:
        wanted, offered = archive.name, f"it or {folder}/"
    return "\n".join(
        [
            f"No intact copy of {data_set.title} was found.",
            f"Expected: {expected}",
            "Looked in:",
            *(f"  {finding}" for finding in findings),
            f"What to do: put {wanted} into {raw}, or set BARLOW_ATLAS_DATA to a folder or "
            f"URL that holds {offered}.",
        ]
    )


def _in_folder(data_set: DataSet, place: Path) -> tuple[Path | None, str]:
    """What a folder offers: the verified path, or None and the reason in words."""
    if not place.is_dir():
        return None, "there is no such folder"
    archive, folder = data_set.archive, _official_folder(data_set)
    findings = []
    candidates: list[tuple[Path, _Fault]] = [(place / folder, _fault_in_folder)]
    if archive:
        candidates.append((place / archive.name, _fault_in_archive))
    if not data_set.files:
        # Only the archive has a checksum, so it is the better witness.
        candidates.reverse()
    for candidate, fault_in in candidates:
        if candidate.exists():
            fault = fault_in(data_set, candidate)
            if fault is None:
                return candidate, ""
            findings.append(fault)
    if findings:
        return None, "; ".join(findings)
    finding = f"neither {folder}/ nor {archive.name} is there" if archive else f"no {folder}/ there"
    if place.parts[-len(Path(folder).parts) :] == Path(folder).parts:
        finding += f" (name the folder that holds {folder}/, not this one)"
    relatives = sorted(p.name for p in place.glob(f"{data_set.name}*") if p.is_dir())
    if relatives and data_set.layout == "tiny-imagenet":
        # A subset is a smaller problem: its numbers must not appear under the whole set's name.
        finding += (
            f", only {', '.join(relatives)}: if that is a subset it is another data set, which a "
            f"study uses as class folders: data: {{name: {relatives[0]}, "
            f"path: {place / relatives[0]}, stored_size: {data_set.image_size}}}"
        )
    return None, finding


def _fault_in_archive(data_set: DataSet, path: Path) -> str | None:
    archive = data_set.archive
    return fault_of(path, archive.md5, archive.size) if archive else None


def _fault_in_folder(data_set: DataSet, folder: Path) -> str | None:
    """What is wrong with the first official file that is not as it should be, or None."""
    for file in data_set.files:
        if file.unpacked and not (folder / file.name).exists():
            if (folder / file.unpacked).exists():
                continue
            return f"{folder.name}/ has neither {file.name} nor {file.unpacked}"
        fault = fault_of(folder / file.name, file.md5, file.size)
        if fault:
            return f"{folder.name}/{fault}"
    landmark = data_set.archive.landmark if data_set.archive else None
    if landmark and not (folder / landmark).exists():
        return f"{folder.name}/{landmark} is missing"
    return None


def _in_url(data_set: DataSet, base: str, raw: Path, report: Report) -> tuple[Path | None, str]:
    """What a web server offers: archive first, single files otherwise; fetched into `raw`."""
    report(f"{data_set.title}: trying {public(base)}")
    archive, folder = data_set.archive, _official_folder(data_set)
    findings = []
    if archive:
        try:
            url = below(base, archive.name)
            return _download(url, raw / archive.name, archive.md5, archive.size, report), ""
        except DataError as error:
            findings.append(str(error))
    try:
        for file in data_set.files:
            url, target = below(base, f"{folder}/{file.name}"), raw / folder / file.name
            _download(url, target, file.md5, file.size, report)
    except DataError as error:
        findings.append(str(error))
    else:
        if data_set.files:
            return raw / folder, ""
    return None, "; ".join(findings)


def _download(url: str, target: Path, md5: str | None, size: int | None, report: Report) -> Path:
    """Fetches `url` into `target`, which only ever holds what `md5` and `size` tell.

    Raises DataError if it cannot be had whole.
    """
    if md5 and fault_of(target, md5, size) is None:
        return target
    report(f"{target.name}: downloading {public(url)}")
    arriving = target.with_name(f".{target.name}{PARTIAL}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        resumed = arriving.is_file()
    except OSError as error:
        place = target.parent
        raise DataError(f"nothing can be downloaded into {place}: {error.strerror}") from error
    try:
        fetch(url, arriving, report)
        fault = fault_of(arriving, md5, size)
        if fault and resumed:
            # What an earlier call left was another server's, or another edition.
            arriving.unlink()
            fetch(url, arriving, report)
            fault = fault_of(arriving, md5, size)
        if fault:
            arriving.unlink()
            raise DataError(fault.replace(arriving.name, target.name))
        os.replace(arriving, target)
    finally:
        with contextlib.suppress(OSError):  # it is not empty
            target.parent.rmdir()
    return target


def fault_of(path: Path, md5: str | None, size: int | None) -> str | None:
    """What is wrong with a file (name first), or None if it is the official one."""
    if not path.is_file():
        return f"{path.name} is missing"
    actual_size = path.stat().st_size
    if size is not None and actual_size != size:
        kind = "truncated" if actual_size < size else "too long"
        return f"{path.name} is {kind}: {actual_size:,} bytes, expected {size:,}"
    if md5 is None:
        # The end of a zip archive holds its directory, so at least a truncated one is noticed.
        whole = path.suffix != ".zip" or zipfile.is_zipfile(path)
        return None if whole else f"{path.name} is truncated, or no zip archive"
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, _md5).hexdigest()
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    if digest != md5:
        return f"{path.name} has the wrong checksum: md5 {digest}, expected {md5}"
    return None


def _md5() -> "hashlib._Hash":
    # Machines with restricted cryptography allow md5 only where it does not serve security.
    return hashlib.md5(usedforsecurity=False)
