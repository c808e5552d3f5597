import pytest

from detbackbones.data.repeat_factors import repeat_factors


def paper_formula(images, threshold):
    """arXiv:1908.03195, section 4.2 and appendix: f_c, r_c = max(1, sqrt(t / f_c)), r_i = max over c in i of r_c."""
    result = []
    for image in images:
        factors = [1.0]
        for category in image:
            frequency = sum(category in other for other in images) / len(images)
            factors.append(max(1, (threshold / frequency) ** 0.5))
        result.append(max(factors))
    return result


def test_factors_follow_the_formula_of_the_paper():
    images = [{"common"}] * 90 + [{"common", "rare"}] * 2 + [{"rarest"}] + [set()] * 7
    assert repeat_factors(images, 0.1) == pytest.approx(paper_formula(images, 0.1))


def test_an_image_of_a_class_with_half_the_threshold_comes_root_two_times():
    images = [{1}] * 99 + [{1, 2}]
    assert repeat_factors(images, 0.02)[-1] == pytest.approx(2**0.5)
    assert repeat_factors(images, 0.02)[0] == 1
