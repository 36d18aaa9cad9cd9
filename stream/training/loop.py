"""Trainer: the training loop, from any step to the end of the budget."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from stream.errors import ConfigError, Fault, TrainingError
from stream.evaluation.detections import DetectionReport
from stream.frame import Uint8Array
from stream.training.checkpoint import BEST, LAST, WEIGHTS, Checkpoint, write_checkpoint
from stream.training.data import Labels
from stream.training.feed import Batch, Feed
from stream.training.loss import Truth, detection_loss
from stream.training.metrics import FILE, EpochMetrics, read_metrics, write_metrics
from stream.training.model import grid
from stream.training.schedule import PLAIN, Average, Budget, learning_rate
from stream.training.settings import TrainingSettings
from stream.training.shards import Shards, one_thread, part_count
from stream.training.validate import Validation, to_pixels

WEIGHT_DECAY = 0.05  # of convolutions; not of biases and norms
MAX_GRADIENT = 10.0  # norm over all weights
LOOK_EVERY_STEPS = 20  # at the loss, on a GPU: each look waits for it
PARTS = {"backbone": ("backbone",), "neck": ("backbone", "neck")}  # what is frozen by which name

Ending = Literal["finished", "no better", "interrupted"]


class Device(NamedTuple):
    """Where and how the network is computed while it trains; validation and export are always in float32."""

    device: torch.device
    precision: torch.dtype


def choose_device(wanted: str, precision: str) -> Device:
    """The device and number format; ``auto`` takes CUDA where there is one, and there float16.

    On a CPU ``auto`` takes bfloat16 where the processor multiplies it natively, else float32.

    Raises:
        ConfigError: there is no CUDA device.
    """
    cuda = torch.cuda.is_available()
    if wanted == "cuda" and not cuda:
        raise ConfigError("framewatch train", [Fault("--device", f"torch {torch.__version__} sees no CUDA device")])
    device = torch.device("cuda" if cuda and wanted != "cpu" else "cpu")
    if precision == "auto":
        native = torch.cpu.get_capabilities()
        bfloat16 = native.get("avx512_bf16") or native.get("amx_bf16")
        precision = "f16" if device.type == "cuda" else "bf16" if bfloat16 else "f32"
    return Device(device, {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[precision])


class Trainer:
    """Everything that changes while training; ``state`` and ``restore`` make a checkpoint of it and go on from one.

    Args:
        settings: see there.
        network: initialised; it is moved to the device.
        feed: of the training pictures.
        validation: what the network is measured on.
        device: from ``choose_device``.
        budget: when to end.
        label_sha256: of the label files that are trained and validated on.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        network: nn.Module,
        feed: Feed,
        validation: Validation,
        device: Device,
        budget: Budget,
        label_sha256: tuple[str, ...],
    ):
        self._settings, self._feed, self._validation, self._budget = settings, feed, validation, budget
        self._device, self._precision = device
        self._label_sha256 = label_sha256
        self._network = network.to(self._device, memory_format=torch.channels_last)
        frozen = PARTS[settings.freeze] if settings.freeze else ()
        self._frozen = [getattr(network, part) for part in frozen]
        for part in self._frozen:
            part.requires_grad_(False)
        self.average = Average(self._network)
        self._optimizer = torch.optim.AdamW(_groups(self._network), lr=settings.lr, fused=True)
        # float16 has few exponents: small gradients are scaled up, or they would vanish.
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=self._precision == torch.float16)
        self._cells = grid(settings.width, settings.height, self._device)
        self.step = 0
        self.elapsed_s = 0.0
        self.best_ap50 = -1.0
        self._waited = 0
        self._new_epoch()
        self.metrics: list[EpochMetrics] = []

    # -- checkpoints

    def state(self) -> dict[str, Any]:
        """All that is needed to go on as if nothing had happened. The pictures of a step follow from seed and step."""
        return {
            WEIGHTS: self.average.network.state_dict(),
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "best_ap50": self.best_ap50,
            "waited": self._waited,
            "epoch_losses": self._losses,
            "epoch_steps": self._steps,
            "epoch_s": self._epoch_s,
            "budget_s": self._budget.seconds,
            "label_sha256": list(self._label_sha256),
        }

    def restore(self, state: dict[str, Any], out: Path) -> None:
        """Take over a checkpoint's state, its limit of time too, and the metrics in the folder ``out`` up to its step."""
        self._network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state[WEIGHTS])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.best_ap50, self._waited = state["best_ap50"], state["waited"]
        self._losses, self._steps, self._epoch_s = state["epoch_losses"].to(self._device), state["epoch_steps"], state["epoch_s"]
        self._budget = Budget(self._budget.steps, state["budget_s"])
        self.metrics = read_metrics(out / FILE, self.step)

    def _new_epoch(self) -> None:
        """Losses, steps and seconds since the last line of metrics; in the checkpoint, as training may stop in between."""
        self._losses, self._steps, self._epoch_s = torch.zeros(4, device=self._device), 0, 0.0

    def _save(self, name: str, classes: tuple[str, ...], state: dict[str, Any]) -> None:
        write_checkpoint(self._settings.out / name, Checkpoint(self._settings, classes, state))

    # -- the loop

    def run(self, stop: threading.Event, step_done: Callable[[float, str], None], epoch_done: Callable[[str], None]) -> Ending:
        """Train to the end of the budget, or until ``stop`` is set, or until validation has not improved for so long.

        Args:
            stop: looked at after each step; the checkpoint is then of that step.
            step_done: called with the progress, 0..1, and the loss in words.
            epoch_done: called with a line on the epoch.

        Raises:
            TrainingError: the loss is not a number any more; the last checkpoint is of before.
        """
        began = time.monotonic() - self.elapsed_s
        classes = self._validation.spec.classes
        if self._stuck():
            return "no better"
        self._train_mode()
        started = time.monotonic() - self._epoch_s
        alone = self._device.type != "cpu" or self._scaler.is_enabled()
        threads = torch.get_num_threads()
        parts = 1 if alone else part_count(self._settings.batch, threads)
        with closing(self._feed.batches(self.step, self._mosaic)) as batches, Shards(self._network, parts, threads) as shards:
            while (progress := self._budget.progress(self.step, self.elapsed_s)) < 1:
                rate = learning_rate(self._settings.lr, progress)
                self._losses += self._learn(next(batches), rate, shards)
                self.step, self._steps = self.step + 1, self._steps + 1
                self.elapsed_s = time.monotonic() - began
                epoch_ends = self.step % self._feed.steps_per_epoch == 0
                progress = self._budget.progress(self.step, self.elapsed_s)
                if self._device.type == "cpu" or epoch_ends or progress >= 1 or self.step % LOOK_EVERY_STEPS == 0:
                    means = [float(value) / self._steps for value in self._losses.cpu()]
                    if not math.isfinite(means[0]):
                        raise TrainingError(self._diverged(rate))
                    step_done(progress, f"loss {means[0]:.3f}")
                if epoch_ends or progress >= 1:
                    images_per_s = self._steps * self._settings.batch / (time.monotonic() - started)
                    epoch = math.ceil(self.step / self._feed.steps_per_epoch)
                    report = self._validated(epoch, progress)
                    if report is not None:  # so that the time never runs out between here and the next step: the last is validated
                        self.elapsed_s = time.monotonic() - began
                    self._note(epoch, rate, means, images_per_s, report)
                    epoch_done(describe(self.metrics[-1], progress))
                    self._new_epoch()
                    self._save(LAST, classes, self.state())
                    if self._stuck():
                        return "no better"
                    started = time.monotonic()
                    self._train_mode()
                if stop.is_set() and progress < 1:
                    self._epoch_s = time.monotonic() - started
                    self._save(LAST, classes, self.state())
                    return "interrupted"
        return "finished"

    def _learn(self, batch: Batch, rate: float, shards: Shards) -> torch.Tensor:
        """One step of the optimiser; the losses, on the device: total, box, objectness, class."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        losses = shards.learn(list(zip(batch.images, batch.labels, strict=True)), self._backward)
        with one_thread():
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), MAX_GRADIENT)
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._optimizer.zero_grad(set_to_none=True)
            self.average.update(self.step + 1)
        return losses

    def _backward(self, network: nn.Module, pictures: Sequence[tuple[Uint8Array, Labels]]) -> torch.Tensor:
        """Add the gradients of some pictures to the network's; their losses as ``_learn`` gives them."""
        images, labels = zip(*pictures, strict=True)
        truths = [self._truth(one) for one in labels]
        with self._autocast():
            raw = network(to_pixels(np.stack(images), self._device))
        losses = detection_loss(raw.float(), truths, self._cells)
        self._scaler.scale(losses.total).backward()
        return torch.stack((losses.total.detach(), losses.box, losses.objectness, losses.kind))

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._precision == torch.float32:
            return nullcontext()
        autocast: AbstractContextManager[Any] = torch.autocast(self._device.type, self._precision)
        return autocast

    def _truth(self, labels: Labels) -> Truth:
        xyxy, class_id = torch.from_numpy(labels.xyxy), torch.from_numpy(labels.class_id)
        ignored = torch.from_numpy(np.ascontiguousarray(labels.ignored))
        found = xyxy[~ignored], class_id[~ignored], xyxy[ignored]
        return Truth(*(part.to(self._device, non_blocking=True) for part in found))

    def _train_mode(self) -> None:
        self._network.train()
        for part in self._frozen:
            part.eval()  # its norms keep their statistics

    def _mosaic(self, step: int) -> float | None:
        return self._settings.mosaic if self._budget.progress(step, self.elapsed_s) < 1 - PLAIN else None

    # -- the end of an epoch

    def _validated(self, epoch: int, progress: float) -> DetectionReport | None:
        """The averaged network measured, where it is due; the best so far is kept."""
        if epoch % self._settings.val_every and progress < 1:
            return None
        report = self._validation.measure(self.average.network, self._device)
        ap50 = 0.0 if math.isnan(report.ap50) else report.ap50
        self._waited += 1
        if ap50 > self.best_ap50:
            self.best_ap50, self._waited = ap50, 0
            self._save(BEST, self._validation.spec.classes, {WEIGHTS: self.average.network.state_dict(), "step": self.step})
        return report

    def _stuck(self) -> bool:
        return self._settings.patience is not None and self._waited >= self._settings.patience

    def _note(self, epoch: int, rate: float, means: list[float], images_per_s: float, report: DetectionReport | None) -> None:
        figures = {}
        if report is not None:
            found = {"ap": report.ap, "ap50": report.ap50, "ap75": report.ap75, "f1": report.best_f1.f1}
            figures = {name: 0.0 if math.isnan(value) else value for name, value in found.items()}
        self.metrics.append(
            EpochMetrics(
                epoch=epoch,
                step=self.step,
                elapsed_s=self.elapsed_s,
                lr=rate,
                loss=means[0],
                loss_box=means[1],
                loss_objectness=means[2],
                loss_class=means[3],
                images_per_s=images_per_s,
                **figures,
            )
        )
        write_metrics(self._settings.out / FILE, self.metrics)

    def _diverged(self, rate: float) -> str:
        last = self._settings.out / LAST
        kept = f"{last} is of before" if last.exists() else "no checkpoint had been written yet"
        return f"the loss is not a number at step {self.step} (learning rate {rate:.2g}); train with a lower --lr ({kept})"


def _groups(network: nn.Module) -> list[dict[str, Any]]:
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    kernels = [parameter for parameter in learned if parameter.ndim > 1]
    others = [parameter for parameter in learned if parameter.ndim <= 1]
    return [{"params": kernels, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]


def describe(metrics: EpochMetrics, progress: float) -> str:
    """A line for the log."""
    text = f"epoch {metrics.epoch} ({progress:.0%}): loss {metrics.loss:.3f}, {metrics.images_per_s:.0f} images/s"
    if metrics.ap50 is not None:
        text += f", AP50 {metrics.ap50:.3f}, AP {metrics.ap:.3f}, F1 {metrics.f1:.3f}"
    return text
