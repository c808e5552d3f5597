import pytest

from detbackbones.errors import InputError, RunError, did_you_mean


@pytest.mark.parametrize(
    "word,known,hint",
    [
        ("resnet50_dilatd", ["resnet50", "resnet50_dilated", "fpn"], "did you mean resnet50_dilated or resnet50?"),
        ("xyz", ["fpn", "pafpn"], "known: fpn, pafpn"),
        ("xyz", {"b": 1, "a": 2}, "known: a, b"),
    ],
)
def test_the_hint_has_the_nearest_words_or_all(word, known, hint):
    assert did_you_mean(word, known) == hint


def test_bad_input_is_a_value_error_and_a_failed_run_is_not():
    assert issubclass(InputError, ValueError)
    assert issubclass(RunError, RuntimeError)
