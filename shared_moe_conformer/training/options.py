"""Options of a run of ./train.py, as opposed to those of the experiment (`config`)."""

from __future__ import annotations

from dataclasses import dataclass

from shared_moe_conformer.config import require


@dataclass(frozen=True)
class RunOptions:
    """Options of one run of a training. None of them changes the result, so none is in config.json."""

    start_epoch: int = 1
    """First epoch to train: 1 begins, K goes on from epoch-(K-1).pt."""
    resume: bool = False
    """Go on from the newest checkpoint, if there is one; otherwise begin."""
    resume_from: str = ""
    """Another folder's checkpoint to go on from in a new --exp-dir, e.g. exp/base/epoch-25.pt with more --num-epochs;
    relative to the recipe's folder; empty: none."""
    save_every_n_steps: int = 0
    """Updates between checkpoints inside an epoch (checkpoint.pt, replaced each time); 0: only at ends of epochs."""
    keep_last_k: int = 0
    """Checkpoints of epochs to keep; 0: all."""
    keep_last_k_steps: int = 0
    """Checkpoints of updates to keep as well (checkpoint-<update>.pt, at save_every_n_steps), for --iter; 0: none."""
    average_period: int = 0
    """Updates between those whose weights are summed, for --use-averaged-model (icefall: 200); 0: no sums."""
    max_skipped_steps: int = 10
    """Updates in a row that may be skipped because a loss or the gradient is not finite; one more ends the training."""
    log_every_n_steps: int = 50
    """Updates between lines in the log and points in TensorBoard; the end of an epoch gives one too."""
    num_threads: int = 0
    """Threads of torch; 0: torch's default, from OMP_NUM_THREADS or the number of cores."""
    device: str = "auto"
    """Device to compute on, e.g. cpu or cuda:0; auto: a GPU if there is one."""
    prescan: bool = False
    """Compute the largest batches first, to know at once whether they fit into memory; changes no result."""
    compile: bool = False
    """Compile attention and dense feed-forwards (torch.compile): a minute at the start, then perhaps faster."""
    checkpoint_activations: bool = False
    """Keep only the layers' inputs for the backward pass, which computes the rest again: less memory, more time."""

    def __post_init__(self) -> None:
        for name, least in (
            ("save_every_n_steps", 0),
            ("keep_last_k", 0),
            ("keep_last_k_steps", 0),
            ("average_period", 0),
            ("max_skipped_steps", 0),
            ("log_every_n_steps", 1),
            ("num_threads", 0),
        ):
            require(getattr(self, name) >= least, f"{name} is {getattr(self, name)}: give {least} or more")
        require(
            self.keep_last_k_steps == 0 or self.save_every_n_steps > 0,
            f"keep_last_k_steps is {self.keep_last_k_steps}: give --save-every-n-steps too",
        )
