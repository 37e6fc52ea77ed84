"""Logistic regression over a grid of penalties, the best of which validation clips choose."""

import warnings
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import sklearn
import torch
from scipy.optimize import minimize
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from evaluate.probes.metrics import METRICS, Labels, class_positions, metric_for

_TOLERANCE = 1e-4  # scikit-learn's: of the largest element of the gradient of a mean loss


class LogisticProbe:
    """Logistic regression with an L2 penalty (lbfgs), C chosen on validation clips.

    Where every clip has one class it is scikit-learn's multinomial `LogisticRegression`. Where a
    clip may have several it is one binary regression per class with one C for all, chosen by mean
    average precision. They are solved together: the sum of their objectives has the optimum of
    each, and a step is then one product of matrices for all classes. One after the other, 50
    classes of 4,000 clips x 512 took 12 times as long (2 CPU cores, November 2026).

    Args:
        penalties: The inverse strengths C, ascending. Each fit starts where the last has ended:
            the objective is convex, so the optimum is the same, but large C need fewer steps.
        max_iterations: Steps at most; further steps only where one has not converged.
        device: A torch device, where the features lie.
        has_array_api: Whether scikit-learn computes on that device, through its array API; it
            must on any but the CPU. `SCIPY_ARRAY_API=1` must be set before scipy is imported.
    """

    def __init__(
        self,
        *,
        penalties: tuple[float, ...],
        max_iterations: tuple[int, ...],
        device: str = "cpu",
        has_array_api: bool = False,
    ) -> None:
        self.penalties = penalties
        self.max_iterations = max_iterations
        self.device = device
        self.has_array_api = has_array_api

    def fit(
        self,
        X: npt.ArrayLike | Tensor,  # noqa: N803  # the names scikit-learn gives them
        y: Labels,
        X_valid: npt.ArrayLike | Tensor,  # noqa: N803
        y_valid: Labels,
    ) -> Self:
        """Fit every C on `X (N, D)` and `y`; keep the best on the validation pair.

        Labels are `(N,)`, or bool `(N, C)` where a clip may have several classes. A validation
        label that is no training label counts as missed. Of equal scores the smaller C counts.

        Sets `classes_`, `coef_ (C, D)`, `intercept_ (C,)`, `penalty_`, `num_iterations_` (of all
        fits) and `warnings_`: which C have not converged, and what scikit-learn has to say.
        """
        features, valid_features = (torch.as_tensor(x, device=self.device) for x in (X, X_valid))
        solver: _Solver
        self.is_multilabel_ = y.ndim == 2
        if self.is_multilabel_:
            self.classes_ = np.arange(y.shape[1])
            solver = _OneVersusRest(features, y)
        else:
            self.classes_ = np.unique(y)
            y_valid = class_positions(y_valid, self.classes_)
            solver = _Multinomial(features, y, has_array_api=self.has_array_api)
        measure, best_score, unconverged = METRICS[metric_for(y_valid)], -1.0, []
        for penalty in self.penalties:
            if not any(solver.fit(penalty, limit) for limit in self.max_iterations):
                unconverged.append(f"{penalty:g}")
            weights, biases = solver.coefficients()
            score = measure(y_valid, (valid_features @ weights.T + biases).cpu().numpy())
            if score > best_score:
                best_score, self.penalty_, best = score, penalty, (weights, biases)
        self.coef_, self.intercept_ = (part.cpu().numpy() for part in best)
        self.num_iterations_ = solver.num_iterations
        limit = self.max_iterations[-1]
        messages = [f"logistic C={c} has not converged in {limit} iterations" for c in unconverged]
        self.warnings_ = tuple(dict.fromkeys(messages + solver.messages))
        return self

    def predict_proba(self, X: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:  # noqa: N803
        """The probability of every class for every row of `X (N, D)`, `(N, C)`; on the CPU."""
        logits = X @ self.coef_.T + self.intercept_
        probabilities: npt.NDArray[np.float32]
        probabilities = expit(logits) if self.is_multilabel_ else softmax(logits, axis=1)
        return probabilities


def choose_device(device: str) -> tuple[str, tuple[str, ...]]:
    """Where scikit-learn can compute: on the device, or on the CPU and a warning that says why."""
    if device == "cpu":
        return device, ()
    if device == "mps":
        return "cpu", ("logistic is fitted on the CPU: it takes float64, which mps has not",)
    try:
        with sklearn.config_context(array_api_dispatch=True):
            can_compute = LogisticRegression().__sklearn_tags__().array_api_support
        reason = f"scikit-learn must be 1.8 or newer; got {sklearn.__version__}"
    except (RuntimeError, ImportError):
        can_compute = False
        reason = "SCIPY_ARRAY_API=1 must be in the environment before scipy is imported"
    if can_compute:
        return device, ()
    return "cpu", (f"logistic is fitted on the CPU, not on {device}: {reason}",)


class _Solver(Protocol):
    """Goes on from its last solution."""

    num_iterations: int
    messages: list[str]  # warnings of others

    def fit(self, penalty: float, max_iter: int) -> bool:
        """Whether it has converged."""

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """Weights `(C, D)` and biases `(C,)`."""


class _Multinomial:
    """scikit-learn's."""

    def __init__(self, features: Tensor, labels: Labels, *, has_array_api: bool) -> None:
        self.features = features if has_array_api else features.numpy()
        self.labels = labels
        self.has_array_api = has_array_api
        self.model = LogisticRegression(warm_start=True, tol=_TOLERANCE)
        self.num_iterations = 0
        self.messages: list[str] = []

    def fit(self, penalty: float, max_iter: int) -> bool:
        self.model.set_params(C=penalty, max_iter=max_iter)
        with (
            warnings.catch_warnings(record=True) as caught,
            sklearn.config_context(array_api_dispatch=self.has_array_api),
        ):
            warnings.simplefilter("always", ConvergenceWarning)
            self.model.fit(self.features, self.labels)
        self.num_iterations += int(self.model.n_iter_[0])
        others = [w for w in caught if not issubclass(w.category, ConvergenceWarning)]
        self.messages += [" ".join(f"scikit-learn: {other.message}".split()) for other in others]
        return len(others) == len(caught)

    def coefficients(self) -> tuple[Tensor, Tensor]:
        weights, biases = (torch.as_tensor(p) for p in (self.model.coef_, self.model.intercept_))
        if len(weights) == 1:  # of two classes scikit-learn keeps the log-odds of the second alone
            weights, biases = (torch.cat([-part / 2, part / 2]) for part in (weights, biases))
        return weights, biases


class _OneVersusRest:
    """A binary regression per class, all in one run of lbfgs.

    Of every class: mean over clips of log(1 + exp(z)) - y z, plus |w|^2 / (2 C N), where the
    logit z = w x + b. Each has scikit-learn's objective, scale and tolerance.
    """

    def __init__(self, features: Tensor, targets: Labels) -> None:
        self.features = features
        self.targets = torch.from_numpy(targets).to(features)
        self.solution = np.zeros((targets.shape[1], features.shape[1] + 1))  # the bias last
        self.num_iterations = 0
        self.messages: list[str] = []

    def fit(self, penalty: float, max_iter: int) -> bool:
        # torch multiplies the matrices, with threads of its own, for which those that scipy's BLAS
        # would take for the vectors of lbfgs only wait: 77 ms a step with them, 11 ms without
        # (1,840 clips x 512 x 200 classes, 2 CPU cores under load, November 2026).
        with threadpool_limits(1, user_api="blas"):
            result = minimize(
                self._objective,
                self.solution.ravel(),
                args=(1 / (penalty * len(self.features)),),
                jac=True,
                method="L-BFGS-B",
                # As scikit-learn sets them: only the gradient decides when to stop.
                options={
                    "maxiter": max_iter,
                    "maxls": 50,
                    "gtol": _TOLERANCE,
                    "ftol": 64 * np.finfo(float).eps,
                },
            )
        self.solution = result.x.reshape(self.solution.shape)
        self.num_iterations += int(result.nit)
        return bool(result.success)

    def coefficients(self) -> tuple[Tensor, Tensor]:
        solution = torch.from_numpy(self.solution).to(self.features)
        return solution[:, :-1], solution[:, -1]

    def _objective(
        self, flat: npt.NDArray[np.float64], strength: float
    ) -> tuple[float, npt.NDArray[np.float64]]:
        """The objective of all classes and its gradient."""
        solution = flat.reshape(self.solution.shape)
        parameters = torch.from_numpy(solution).to(self.features)
        logits = self.features @ parameters[:, :-1].T + parameters[:, -1]  # (N, C)
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, self.targets, reduction="none"
        )
        value = losses.sum(dtype=torch.float64).item() / len(losses)
        errors = logits.sigmoid_().sub_(self.targets).div_(len(losses))
        gradient = torch.hstack([errors.T @ self.features, errors.sum(dim=0)[:, None]])
        gradient_of_all = gradient.double().cpu().numpy()
        gradient_of_all[:, :-1] += strength * solution[:, :-1]
        value += 0.5 * strength * float(np.square(solution[:, :-1]).sum())
        return value, gradient_of_all.ravel()
