from __future__ import annotations

import math

import pytest
import torch

from scssl.objective import dino

TEMPERATURES = [(0.1, 0.04), (0.5, 0.5)]


@pytest.fixture
def center(shape):
    return torch.linspace(-0.5, 0.5, shape[1], dtype=torch.float64)


def naive(student, teacher, center, student_temperature, teacher_temperature):
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p = torch.exp((t.detach() - center) / teacher_temperature)
        q = torch.exp(s / student_temperature)
        total = total - sum(p[k] / sum(p) * torch.log(q[k] / sum(q)) for k in range(len(s)))
    return total / len(student)


@pytest.mark.parametrize("temperatures", TEMPERATURES)
def test_equals_the_naive_sum(views, center, assert_same, temperatures):
    student, teacher = views

    def ours(s):
        names = ("student_temperature", "teacher_temperature")
        return dino(s, teacher.to(s), center.to(s), **dict(zip(names, temperatures, strict=True)))

    # The plain exponentials overflow in single precision.
    assert_same(ours, lambda s: naive(s, teacher, center, *temperatures), student, single=False)


@pytest.mark.parametrize("temperatures", TEMPERATURES)
def test_equals_lightly(views, center, assert_same, temperatures):
    """Two views seen by both networks: there both pairs of different views, here concatenated."""
    lightly = pytest.importorskip("lightly.loss")
    student_temperature, teacher_temperature = temperatures
    teacher = [views[1].roll(1, 1), views[0].roll(1, 1)]

    def theirs(s1, s2):
        loss = lightly.DINOLoss(
            len(center), student_temp=student_temperature, teacher_temp=teacher_temperature
        ).to(s1)
        # The loss itself moves its centre afterwards, so each call has a new one.
        loss.center = center.to(s1).view(1, 1, -1)
        return loss([t.to(s1) for t in teacher], [s1, s2])

    def ours(s1, s2):
        return dino(
            torch.cat([s1, s2]),
            torch.cat([teacher[1], teacher[0]]).to(s1),
            center.to(s1),
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
        )

    # The temperature of the teacher is a tensor in single precision there.
    assert_same(ours, theirs, *views, rtol=1e-5)


def test_defaults(views, center):
    named = dino(*views, center, student_temperature=0.1, teacher_temperature=0.04)
    assert dino(*views, center) == named


def test_teacher_and_center_have_no_gradient(views, center):
    student, teacher = (z.requires_grad_() for z in views)
    center.requires_grad_()
    dino(student, teacher, center).backward()
    assert teacher.grad is None
    assert center.grad is None
    # A shift of all outputs changes no probability.
    zero = torch.zeros(len(student), dtype=student.dtype)
    torch.testing.assert_close(student.grad.sum(1), zero)


def test_of_a_student_without_opinion_is_the_logarithm_of_the_number_of_outputs():
    loss = dino(torch.zeros(3, 8), torch.randn(3, 8), torch.zeros(8))
    assert loss.item() == pytest.approx(math.log(8), rel=1e-6)


def test_a_student_like_its_teacher_reaches_the_entropy():
    t = torch.randn(4, 6)
    center = torch.randn(6)
    p = ((t - center) / 0.3).softmax(1)
    entropy = -(p * p.log()).sum(1).mean()
    loss = dino(t - center, t, center, student_temperature=0.3, teacher_temperature=0.3)
    torch.testing.assert_close(loss, entropy)


def test_center_must_have_a_value_for_each_output(views):
    with pytest.raises(
        ValueError, match=r"`center` must be of shape \(\d+,\), one value per output"
    ):
        dino(*views, torch.zeros(1, views[0].shape[1]))
