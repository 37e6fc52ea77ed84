"""Logistic regression with the penalty chosen on validation clips."""

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

_TOLERANCE = 1e-4  # scikit-learn's default: largest gradient element of the mean loss


class LogisticProbe:
    """Logistic regression with an L2 penalty (lbfgs), C chosen on validation clips.

    With one class per clip this is scikit-learn's multinomial `LogisticRegression`. Multi-label
    tasks take one binary regression per class with one C for all, chosen by mean average
    precision. These are solved together: the sum of their objectives has the optimum of each, and
    a step is then one matrix product for all classes. One after the other, 50 classes of 4,000
    clips x 512 took 12 times as long (2 CPU cores, November 2026).

    Args:
        penalties: Inverse strengths C, ascending. Each fit starts from the previous solution: the
            objective is convex, so the optimum is the same, but large C need fewer steps.
        max_iterations: Limits of lbfgs steps; the next one is used if a fit has not converged.
        device: Torch device of the features.
        has_array_api: True if scikit-learn computes on that device through its array API;
            required except on the CPU. `SCIPY_ARRAY_API=1` must be set before scipy is imported.
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

        Labels are `(N,)`, or multi-label targets, bool `(N, C)`. A validation label that is not a
        training label counts as an error. Of equal scores the smaller C counts.

        Sets `classes_`, `coef_ (C, D)`, `intercept_ (C,)`, `penalty_`, `num_iterations_` (of all
        fits) and `warnings_`: each C that has not converged, and scikit-learn's own warnings.
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
        """Return the probability of every class for each row of `X (N, D)`, `(N, C)`; CPU only."""
        logits = X @ self.coef_.T + self.intercept_
        probabilities: npt.NDArray[np.float32]
        probabilities = expit(logits) if self.is_multilabel_ else softmax(logits, axis=1)
        return probabilities


def choose_device(device: str) -> tuple[str, tuple[str, ...]]:
    """Choose `device` if scikit-learn can compute there, else the CPU with a warning."""
    if device == "cpu":
        return device, ()
    if device == "mps":
        return "cpu", ("logistic is fitted on the CPU: it needs float64, which mps lacks",)
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
    """Solver that starts each fit from its last solution."""

    num_iterations: int
    messages: list[str]  # warnings other than those of convergence

    def fit(self, penalty: float, max_iter: int) -> bool:
        """Fit; return True if it has converged."""

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """Return weights `(C, D)` and biases `(C,)`."""


class _Multinomial:
    """scikit-learn's multinomial logistic regression."""

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
        if len(weights) == 1:  # for two classes scikit-learn keeps only the log-odds of the second
            weights, biases = (torch.cat([-part / 2, part / 2]) for part in (weights, biases))
        return weights, biases


class _OneVersusRest:
    """Binary regression for each class, all in one run of lbfgs.

    Objective of a class: mean over clips of log(1 + exp(z)) - y z, plus |w|^2 / (2 C N), with the
    logit z = w x + b. Objective, scale and tolerance are scikit-learn's.
    """

    def __init__(self, features: Tensor, targets: Labels) -> None:
        self.features = features
        self.targets = torch.from_numpy(targets).to(features)
        self.solution = np.zeros((targets.shape[1], features.shape[1] + 1))  # the bias last
        self.num_iterations = 0
        self.messages: list[str] = []

    def fit(self, penalty: float, max_iter: int) -> bool:
        # torch multiplies the matrices with its own threads; threads of scipy's BLAS, used for
        # the vectors of lbfgs, compete with them: 77 ms a step with, 11 ms without (1,840 clips x
        # 512 x 200 classes, 2 CPU cores under load, November 2026).
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
        """Return the objective summed over all classes, and its gradient."""
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
