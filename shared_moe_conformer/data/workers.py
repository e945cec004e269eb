"""Processes that read batches ahead of training, and end when it ends."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data.dataloader import _BaseDataLoaderIter

from shared_moe_conformer.text import first_line


def read_ahead(dataset: Dataset, *, num_workers: int, sampler: Iterable[Any] | None = None) -> Iterator[Any]:
    """The items of a dataset for each plan of a sampler, or by itself, in order; torch's global random state stays.

    On Linux workers are forked, as Python itself did before 3.14: they begin at once and copy nothing. Where a process
    cannot see who sent a signal (macOS, Windows), workers end as torch has them end.

    Raises:
      ValueError: the dataset raised it, or `OSError`; in one line, without the traceback of a worker.
    """
    told = _ToldStream(dataset) if isinstance(dataset, IterableDataset) else _Told(dataset)
    options: dict[str, Any] = {"batch_size": None, "num_workers": num_workers, "generator": torch.Generator()}
    if num_workers and sys.platform == "linux":
        options["multiprocessing_context"] = "fork"
    if not hasattr(signal, "sigwaitinfo"):
        return _raising(iter(DataLoader(told, sampler=sampler, **options)))
    begin = functools.partial(_begin_worker, os.getpid())
    return _raising(iter(_LoaderOfObedientWorkers(told, sampler=sampler, worker_init_fn=begin, **options)))


def _raising(items: Iterator[Any]) -> Iterator[Any]:
    for item in items:
        if isinstance(item, ValueError):
            raise item
        yield item


class _Told(Dataset):
    """A dataset that gives its errors and raises none: torch would put a worker's traceback into the message."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __getitem__(self, plan: Any) -> Any:
        try:
            return self._dataset[plan]
        except (ValueError, OSError) as error:
            return ValueError(first_line(error))


class _ToldStream(IterableDataset):
    """The same for a dataset without plans; it ends with its error."""

    def __init__(self, dataset: IterableDataset) -> None:
        self._dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._dataset
        except (ValueError, OSError) as error:
            yield ValueError(first_line(error))


class _LoaderOfObedientWorkers(DataLoader):
    """Workers begin with SIGTERM blocked: if their parent ends at once, its signal waits until they can obey it."""

    def __iter__(self) -> _BaseDataLoaderIter:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _begin_worker(parent: int, worker: int) -> None:
    """Let a worker end when its parent ends or tells it to, and not before.

    Batch systems such as Slurm, and `timeout`, send SIGTERM to all processes. The parent may be in the middle of a
    step then, so its workers wait for the parent's own signal. torch does not tell a worker that its parent was killed
    while the worker began.
    """
    threading.Thread(target=_end_when_told, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _end_when_told(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
