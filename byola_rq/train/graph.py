"""Training steps captured as a CUDA graph and replayed: one launch instead of a thousand."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from byola_rq.corpus.segments import SegmentBatch
from byola_rq.errors import first_line
from byola_rq.runtime.distributed import world_size
from byola_rq.runtime.stages import stage
from byola_rq.runtime.terminal import warn
from byola_rq.train.state import TrainState
from byola_rq.train.step import StepOutcome, compute_step, train_step

WARM_UP_STEPS = 3  # eager: compiles kernels, chooses algorithms, allocates Adam's moments

Step = Callable[[SegmentBatch], StepOutcome]


def choose_step(state: TrainState) -> Step:
    """Choose eager or graphed steps by `train.cuda_graph`; `auto` means graphed if possible.

    If a GPU cannot replay, the reason is printed to stderr once.
    """
    asked = state.config.train.cuda_graph
    eager = partial(train_step, state)
    if asked is False or (asked == "auto" and state.device.type != "cuda"):
        return eager
    if state.device.type != "cuda":
        reason = f"it needs a GPU; got {state.device.type}"
    elif world_size() > 1:
        reason = f"{world_size()} processes exchange gradients"
    else:
        return GraphedStep(state)
    _warn_eager(reason)
    return eager


class GraphedStep:
    """`train_step` on one GPU: eager at first, then captured once and replayed, bit for bit equal.

    Values that change from step to step are written to fixed memory: batch, learning rate, EMA
    decay, and dropout's seed and offset (by torch's generator before each replay). A batch of
    another shape runs eagerly. If the capture fails, for lack of memory or because the step waits
    for the device, all steps stay eager.

    The outcome's tensors are overwritten by the next step.

    Args:
        state: State on a CUDA device, in a single process.
    """

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self._is_encoder_waiting = state.is_encoder_waiting
        self._num_eager = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._has_failed = False

    @property
    def is_replaying(self) -> bool:
        """True once the step has been captured."""
        return self._graph is not None

    def __call__(self, batch: SegmentBatch) -> StepOutcome:
        """Do one step."""
        if self._is_encoder_waiting != self._state.is_encoder_waiting:
            self._is_encoder_waiting = self._state.is_encoder_waiting
            self._graph, self._num_eager = None, 0  # from here on other weights get gradients
        if self._graph is None and not self._has_failed and self._num_eager >= WARM_UP_STEPS:
            self._capture(batch)
        if self._graph is None or batch.waveform.shape != self._waveform.shape:
            self._num_eager += 1
            return train_step(self._state, batch)
        self._state.begin_step()
        with stage("input"):
            waveform, key, _ = batch.to(self._state.device)
            self._waveform.copy_(waveform)
            self._key.copy_(key)
        with stage("graph"):
            self._graph.replay()
        self._state.step += 1
        return self._outcome

    def _capture(self, batch: SegmentBatch) -> None:
        """Record the launches of a step without computing anything."""
        waveform, key, _ = batch.to(self._state.device)
        self._waveform: Tensor = waveform.clone()
        self._key: Tensor = key.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            # Thread-local: other threads may keep calling the driver.
            with (
                torch.cuda.device(self._state.device),
                torch.cuda.graph(graph, capture_error_mode="thread_local"),
            ):
                self._outcome = compute_step(self._state, self._waveform, self._key)
        # Any error of a driver, allocator or module: the eager step gives the same result.
        except Exception as error:
            self._has_failed = True
            _leave_capture(self._state)
            _warn_eager(first_line(error))
            return
        self._graph = graph


def _leave_capture(state: TrainState) -> None:
    """Clean up after a failed capture: free its gradients and release the generator."""
    state.optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize(state.device)
    index = state.device.index
    generator = torch.cuda.default_generators[
        torch.cuda.current_device() if index is None else index
    ]
    generator.graphsafe_set_state(generator.clone_state())
    torch.cuda.empty_cache()


def _warn_eager(reason: str) -> None:
    warn(
        f"warning: train.cuda_graph: the step is not captured ({reason}) and "
        "runs eagerly: same result, but slower"
    )
