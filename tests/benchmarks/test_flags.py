"""Every measurement of a model takes the flags for K/V type and chat template, like the commands."""

import argparse
import importlib

import pytest

from benchmarks.__main__ import MEASURES as DEVELOPERS
from edgeinfer.bench.opened import text_tokens
from edgeinfer.cli.bench_command import MEASURES
from tests.unit.chat_templates import Characters

WITHOUT_A_MODEL = {"kernels", "predicted_speed", "traffic"}
ALWAYS_ALIKE = {"mlx_drafts"}  # backends are compared in float32, with the model's own template
WITHOUT_TEXT = {"bundle", "cpu_kernels", "tensor_types", "window"}  # these use numbers as tokens, or try every K/V type
ALL = [f"edgeinfer.bench.{name}" for name in MEASURES] + [f"benchmarks.{name}" for name in DEVELOPERS]


@pytest.mark.parametrize(
    "module", [one for one in ALL if one.split(".")[-1] not in WITHOUT_A_MODEL | WITHOUT_TEXT | ALWAYS_ALIKE]
)
def test_a_measurement_takes_kv_type_and_template(module: str) -> None:
    parser = argparse.ArgumentParser()
    importlib.import_module(module).add_arguments(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert {"--kv-type", "--template"} <= flags


def test_with_a_template_the_text_is_asked_as_a_question() -> None:
    tokenizer = Characters("<s>", "<|im_start|>", "<|im_end|>")
    assert tokenizer.show(text_tokens(tokenizer, "Hi")) == "<s>Hi"
    opened = "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.show(text_tokens(tokenizer, "Hi", "chatml")) == opened
