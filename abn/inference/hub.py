"""The Hugging Face Hub: a network is pushed there in one commit, and fetched from there.

Only the files named here are fetched, and none is run: weights are safetensors, settings are JSON.
An address is USER/REPO or hf://USER/REPO, with @REVISION for a branch, a tag or a commit.
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import CommitOperationAdd, HfApi, errors

from abn.models import checkpoint
from abn.runtime import files
from abn.runtime.errors import UserError

SCHEME = "hf://"
WEIGHTS, CONFIG, CARD, SHEET = "model.safetensors", "config.json", "README.md", "attentions.png"
ADDRESS = re.compile(rf"(?:{SCHEME})?([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")
NOTHING = re.compile(r"(?!)")  # the names of files that may be in the way of a new folder: none
REMEDIES = {  # by HTTP status
    401: "log in with `hf auth login`, or set HF_TOKEN",
    403: "use a token that may write there",
    404: "check the name; if it is private, log in with `hf auth login`",
}
FAILURES = (  # the first is httpx's, whichever httpx the library is built on
    errors.HTTPError,  # type: ignore[attr-defined]
    *(OSError, ValueError),
)


class HubError(UserError):
    """The Hub refuses, does not answer, or has no such network."""

    kind = "HUB"


class Address(NamedTuple):
    """A repository on the Hub."""

    repo: str  # USER/REPO
    revision: str | None  # None: its main branch


def address(text: str) -> Address:
    """The address in `text`; HubError where it is none."""
    match = ADDRESS.fullmatch(text)
    if match is None:
        raise HubError("not an address of the Hub", text, f"write USER/REPO or {SCHEME}USER/REPO")
    return Address(match[1], match[2])


def push(target: str, content: Mapping[str, bytes | Path], private: bool, message: str) -> str:
    """Make the repository where it is missing and commit `content`, all or nothing; its address.

    `private` matters only where it is made. Files there with other names stay.
    """
    where, api = address(target), HfApi()
    parts = [CommitOperationAdd(name, source) for name, source in content.items()]
    with _failures(target):
        api.create_repo(where.repo, private=private, exist_ok=True)
        commit = api.create_commit(
            where.repo, parts, commit_message=message, revision=where.revision
        )
    return str(commit.commit_url)


def fetch(target: str) -> Path:
    """The weights of a repository, in the Hub's cache on this machine."""
    with _failures(target):
        return _download(address(target), WEIGHTS)


def _download(where: Address, name: str) -> Path:
    return Path(HfApi().hf_hub_download(where.repo, name, revision=where.revision))


def pull(target: str, folder: Path) -> list[str]:
    """Fetch a network into the new `folder`; the names of its files.

    DataError where it is no checkpoint of this project, DiskError where `folder` is not empty.
    """
    files.require_only(folder, NOTHING)  # before the download, and again after it
    found = {WEIGHTS: fetch(target)}
    checkpoint.load(found[WEIGHTS], torch.device("cpu"))
    # The commit of the weights, after which the cache names its folder: all are of the same one.
    same = address(target)._replace(revision=found[WEIGHTS].parent.name)
    for name in (CONFIG, CARD, SHEET):
        with _failures(target), suppress(errors.RemoteEntryNotFoundError):
            found[name] = _download(same, name)
    with files.writing(folder), files.replacing_folder(folder, NOTHING) as part:
        for name, file in found.items():
            shutil.copyfile(file, part / name)
    return list(found)


@contextmanager
def _failures(target: str) -> Iterator[None]:
    """HubError in one line for what the Hub or the network fails with."""
    try:
        yield
    except UserError:
        raise
    except FAILURES as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        said = getattr(error, "server_message", None) or str(error)
        what = said.strip().partition("\n")[0][:200] or type(error).__name__
        remedy = REMEDIES.get(status or 0, "check the name and the network, then run again")
        raise HubError(what, target, remedy) from error
