"""The filter of motion: held against the textbook's matrices, one box at a time, and against what it is to do."""

import numpy as np
import pytest
from numpy.typing import NDArray

from lightmill.ops.kalman import Motion, Noise, begin, correct, joined, predict

NOISE = Noise(measured=0.04, acceleration=0.07, speed=0.25, size=0.4)


class Textbook:
    """One box: 8 numbers, 8 x 8 matrices, an inverse; nothing is left out because it is zero."""

    def __init__(self, box: NDArray[np.float64], noise: Noise) -> None:
        self.noise = noise
        self.x = np.concatenate([self.measurement(box), np.zeros(4)])
        scale = self.scale()
        self.P = np.diag(np.concatenate([(noise.measured * scale) ** 2, (noise.speed * scale) ** 2]))

    @staticmethod
    def measurement(box: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y, w, h = box
        return np.array([x + w / 2, y + h / 2, w, h])

    def scale(self) -> NDArray[np.float64]:
        return max(self.x[2], self.x[3]) * np.array([1, 1, self.noise.size, self.noise.size])

    def predict(self, t: float) -> None:
        eye = np.eye(4)
        F = np.block([[eye, t * eye], [0 * eye, eye]])
        q = np.diag((self.noise.acceleration * self.scale()) ** 2)
        Q = np.block([[t**3 / 3 * q, t**2 / 2 * q], [t**2 / 2 * q, t * q]])
        self.x, self.P = F @ self.x, F @ self.P @ F.T + Q

    def correct(self, box: NDArray[np.float64]) -> None:
        H = np.hstack([np.eye(4), np.zeros((4, 4))])
        R = np.diag((self.noise.measured * self.scale()) ** 2)
        K = self.P @ H.T @ np.linalg.inv(H @ self.P @ H.T + R)
        self.x = self.x + K @ (self.measurement(box) - H @ self.x)
        self.P = (np.eye(8) - K @ H) @ self.P


def some_boxes(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    return np.column_stack([rng.uniform(0, 1000, (count, 2)), rng.uniform(20, 200, (count, 2))])


def test_it_is_the_textbooks_filter() -> None:
    rng = np.random.default_rng(1)
    boxes = some_boxes(rng, 7)
    motion, one_by_one = begin(boxes, noise=NOISE), [Textbook(box, NOISE) for box in boxes]
    for _ in range(12):
        steps = rng.uniform(0, 3, 7)
        boxes = boxes + rng.normal(0, 4, boxes.shape) * [1, 1, 0.5, 0.5]
        motion = correct(predict(motion, steps=steps, noise=NOISE), boxes, noise=NOISE)
        for oracle, t, box in zip(one_by_one, steps, boxes, strict=True):
            oracle.predict(t)
            oracle.correct(box)
        for i, oracle in enumerate(one_by_one):
            np.testing.assert_allclose(motion.state[i].T.ravel(), oracle.x, rtol=1e-9)
            own = oracle.P.reshape(2, 4, 2, 4)[:, range(4), :, range(4)]  # [4, 2, 2]; the rest is zero
            np.testing.assert_allclose(motion.covariance[i], own, rtol=1e-7, atol=1e-9)
            assert np.abs(oracle.P).sum() == pytest.approx(np.abs(own).sum())


def test_a_straight_run_is_foreseen() -> None:
    """Constant velocity, and a size that grows evenly: what comes next is known after a few frames."""
    boxes = np.array([[100.0 + 12 * t, 300.0 - 5 * t, 40.0 + t, 110.0 + 2 * t] for t in range(30)])
    motion = begin(boxes[:1], noise=NOISE)
    errors = []
    for box in boxes[1:]:
        ahead = predict(motion, steps=1, noise=NOISE)
        errors.append(float(np.abs(ahead.boxes[0] - box).max()))
        motion = correct(ahead, box[None], noise=NOISE)
    assert errors[0] > 10  # nobody can know
    assert max(errors[9:]) < 0.1
    np.testing.assert_allclose(
        predict(motion, steps=4, noise=NOISE).boxes[0], boxes[-1] + 4 * np.diff(boxes[:2], axis=0)[0], atol=0.2
    )


def test_noise_is_averaged_away() -> None:
    rng = np.random.default_rng(2)
    true = np.array([[100.0 + 9 * t, 300.0, 40.0, 110.0] for t in range(200)])
    seen = true + rng.normal(0, 4, true.shape) * [1, 1, 0.1, 0.1]
    steady = Noise(measured=0.04, acceleration=0.005)
    motion, error = begin(seen[:1], noise=steady), []
    for box, truth in zip(seen[1:], true[1:], strict=True):
        motion = correct(predict(motion, steps=1, noise=steady), box[None], noise=steady)
        error.append(motion.boxes[0, :2] - truth[:2])
    assert np.std(error[20:]) < 0.6 * 4


def test_steps_add_up() -> None:
    """A frame that is missing changes nothing but certainty: two steps are one of double length."""
    motion = predict(begin([[0, 0, 30, 90], [50, 5, 20, 60]], noise=NOISE), steps=1, noise=NOISE)
    motion = correct(motion, [[8, 1, 30, 90], [50, 9, 20, 60]], noise=NOISE)
    once = predict(motion, steps=[2, 3], noise=NOISE)
    fixed_size = Motion(once.state, once.covariance)
    for steps in ([0.5, 1.0], [1.5, 2.0]):
        motion = predict(motion, steps=steps, noise=NOISE)
    np.testing.assert_allclose(motion.state, fixed_size.state)
    grown = predict(motion, steps=1, noise=NOISE).covariance - motion.covariance
    assert (np.diagonal(grown, axis1=-2, axis2=-1) > 0).all()


def test_no_step_changes_nothing() -> None:
    motion = begin([[0, 0, 30, 90]], noise=NOISE)
    same = predict(motion, steps=0, noise=NOISE)
    np.testing.assert_array_equal(same.state, motion.state)
    np.testing.assert_array_equal(same.covariance, motion.covariance)


def test_a_shrinking_box_does_not_vanish() -> None:
    motion = begin([[0, 0, 30, 90]], noise=NOISE)
    for size in (70, 50, 30):
        motion = correct(predict(motion, steps=1, noise=NOISE), [[0, 0, size / 3, size]], noise=NOISE)
    assert (predict(motion, steps=50, noise=NOISE).boxes[:, 2:] > 0).all()


def test_boxes_do_not_know_each_other() -> None:
    rng = np.random.default_rng(3)
    boxes, later = some_boxes(rng, 5), some_boxes(rng, 5)
    together = correct(predict(begin(boxes, noise=NOISE), steps=1.5, noise=NOISE), later, noise=NOISE)
    apart = [
        correct(predict(begin(boxes[part], noise=NOISE), steps=1.5, noise=NOISE), later[part], noise=NOISE)
        for part in (slice(0, 2), slice(2, 5))
    ]
    np.testing.assert_array_equal(together.state, joined(*apart).state)
    np.testing.assert_array_equal(together.covariance, joined(*apart).covariance)
    np.testing.assert_array_equal(together[np.array([3])].state, together.state[3:4])


@pytest.mark.parametrize("box", [[0, 0, 0, 5], [0, 0, 5, -1], [0, float("nan"), 5, 5], [0, 0, float("inf"), 5]])
def test_boxes_without_area_are_refused(box: list[float]) -> None:
    with pytest.raises(ValueError, match="with w and h above 0"):
        begin([box], noise=NOISE)


def test_other_misuse_is_refused() -> None:
    motion = begin([[0, 0, 30, 90]], noise=NOISE)
    with pytest.raises(ValueError, match="time goes on"):
        predict(motion, steps=-1, noise=NOISE)
    with pytest.raises(ValueError, match="1 boxes under way, and 2 are told"):
        correct(motion, [[0, 0, 1, 1]] * 2, noise=NOISE)
    with pytest.raises(ValueError, match="above 0"):
        Noise(measured=0)
