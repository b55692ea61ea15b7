"""Commands end to end: what is on stdout, what is on stderr, and the exit code."""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Cli
from tests.tiny_gguf import Tiny, write_tiny


def test_the_answer_is_on_stdout_and_nothing_else_is(cli: Cli, on_tiny: list[str]) -> None:
    quiet = cli("run", *on_tiny, "the rain")
    assert quiet.code == 0
    assert quiet.out.endswith("\n")
    assert quiet.err == "(stopped at --max-tokens 12)\n"
    talkative = cli("run", *on_tiny, "--stats", "the rain")
    assert talkative.out == quiet.out
    assert "tokens/s, first token" in talkative.err
    assert "0 reused" in talkative.err
    assert "window: " in talkative.err


def test_a_prompt_may_come_from_arguments_or_stdin(cli: Cli, on_tiny: list[str], tiny: Path) -> None:
    flags = on_tiny[2:]
    answer = cli("run", *on_tiny, "the rain").out
    assert cli("run", *flags, str(tiny), "the rain").out == answer
    assert cli("run", str(tiny), *flags, "the rain").out == answer
    assert cli("run", *on_tiny, "--prompt", "the rain").out == answer
    assert cli("run", *on_tiny, "-", stdin=b"the rain").out == answer
    assert cli("run", *on_tiny, stdin=b"the rain").out == answer
    assert cli("run", *on_tiny, "the", stdin=b"rain").out == cli("run", *on_tiny, "the\n\nrain").out


def test_a_text_is_continued_without_a_template(cli: Cli, on_tiny: list[str]) -> None:
    raw = cli("run", *on_tiny, "--raw", "--stats", "the rain")
    chat = cli("run", *on_tiny, "--stats", "the rain")
    assert raw.code == 0
    assert raw.out != chat.out
    assert "prompt 2:" in raw.err  # `the`, ` rain`
    assert cli("run", *on_tiny, "--raw", stdin=b"the rain").out == raw.out
    refused = cli("run", *on_tiny, "--raw", "--system", "Be brief.", "the rain")
    assert refused.code == 2
    assert "--raw uses no chat template" in refused.err


def test_run_as_json(cli: Cli, on_tiny: list[str]) -> None:
    plain = cli("run", *on_tiny, "the rain")
    ran = cli("run", *on_tiny, "--json", "the rain")
    answer = json.loads(ran.out)
    assert answer["text"] == plain.out.removesuffix("\n")
    assert (answer["model"], answer["backend"], answer["tier"]) == ("tiny", "reference", "F32")
    stats = answer["stats"]
    assert stats["finish"] == "length"
    assert stats["emitted"] == 12
    assert stats["reused"] + stats["prefilled"] == stats["prompt"]
    assert {"kept", "evicted", "reanchored", "reprefilled", "rounds", "drafted", "accepted", "arms"} <= set(stats)


def test_a_piped_chat_is_a_message_a_line(cli: Cli, on_tiny: list[str]) -> None:
    ran = cli("chat", *on_tiny, "--stats", stdin=b'the rain\n\n"""two\nlines"""\n/show stats\n/bye\nnever sent\n')
    assert ran.code == 0
    assert ran.out.count("\n") >= 2
    assert ran.err.count("tokens/s, first token") == 3  # two answers, and /show stats
    assert "prompt" in ran.err
    reused = [line for line in ran.err.splitlines() if "reused" in line]
    assert " 0 reused" in reused[0]
    assert " 0 reused" not in reused[1]


def test_a_saved_chat_is_loaded(cli: Cli, on_tiny: list[str], tmp_path: Path) -> None:
    first = cli("chat", *on_tiny, stdin=b"the rain\n/save talk.json\n")
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert [message["role"] for message in saved["messages"]] == ["user", "assistant"]
    assert saved["messages"][1]["content"].removesuffix("\n") + "\n" == first.out
    again = cli("chat", *on_tiny, stdin=b"/load talk.json\nand then\n/save more.json\n")
    assert again.code == 0
    more = json.loads((tmp_path / "more.json").read_text())
    assert more["messages"][:2] == saved["messages"]
    assert [message["role"] for message in more["messages"][2:]] == ["user", "assistant"]


def test_a_wrong_chat_command_is_explained_and_the_chat_continues(cli: Cli, on_tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[1")
    lines = ["/hlep", "/set tmep 1", "/set temp hot", "/load bad.json", "/load none.json", "/save", "/show nothing"]
    ran = cli("chat", *on_tiny, stdin="\n".join([*lines, "the rain"]).encode())
    assert ran.code == 2  # the exit code tells a script that something was refused
    assert ran.err.count("error: ") == len(lines)
    assert "there is no command `/hlep`\nhint: did you mean `/help`?" in ran.err
    assert "there is no setting `tmep`\nhint: did you mean `temp`?" in ran.err
    assert (
        "temp must be a number from 0 to 100; received `hot`\nhint: `/set` without a name shows all values" in ran.err
    )
    assert "No such file or directory\nhint: /save writes one" in ran.err
    assert ran.out  # the question was answered anyway


def test_settings_apply_and_clear_starts_again(cli: Cli, on_tiny: list[str]) -> None:
    talk = b"/set max-tokens 3\n/set system Be brief.\nthe rain\n/show\n/clear\n/set\nthe rain\n/help\n"
    ran = cli("chat", *on_tiny, "--stats", stdin=talk)
    assert ran.code == 0
    assert ran.err.count("(stopped at --max-tokens 3)") == 2
    assert "system          Be brief." in ran.err
    assert "conversation    2 messages" in ran.err
    assert "/load FILE" in ran.err
    half = len(ran.out) // 2
    assert ran.out[:half] == ran.out[half:]  # after /clear the same question has the same answer


def test_an_eviction_is_announced_once(cli: Cli, on_tiny: list[str]) -> None:
    """A window of 256 tokens, and messages that fill it."""
    flags = [*on_tiny, "--context", "320", "--stats"]
    ran = cli("chat", *flags, stdin=(b"the rain in the train station " * 6 + b"\n") * 7)
    assert ran.code == 0
    assert ran.err.count("(the window of 320 tokens is full") == 1
    evicted = [line for line in ran.err.splitlines() if "evicted" in line and "window: " in line]
    assert evicted


def test_a_chat_past_the_last_position_continues_and_says_so(cli: Cli, on_tiny: list[str], tmp_path: Path) -> None:
    short = write_tiny(tmp_path / "short.gguf", Tiny(limit=384))
    flags = [*on_tiny, "--model", str(short), "--context", "320", "--max-tokens", "120", "--stats"]
    ran = cli("chat", *flags, stdin=b"the rain\n" * 5)
    assert ran.code == 0, ran.err
    assert ran.err.count("(the model's 384 positions are used up") == 1
    assert any("1 re-anchored" in line for line in ran.err.splitlines())
    assert ran.err.count("tokens/s, first token") == 5


def test_an_answer_ends_before_a_stop_string(cli: Cli, on_tiny: list[str]) -> None:
    whole = cli("run", *on_tiny, "the rain").out.removesuffix("\n")
    stop = whole[3:5]
    assert stop.strip()
    cut = cli("run", *on_tiny, "--stop", stop, "the rain")
    assert cut.out == whole.partition(stop)[0] + "\n"
    assert "stopped at" not in cut.err


def test_plan_shows_the_choice_and_the_refusals(cli: Cli) -> None:
    ran = cli("plan", "--device", "iphone-15-pro", "--json")
    plan = json.loads(ran.out)
    assert ran.code == 0
    assert {"device", "budget_bytes", "model", "artifact", "backend", "window", "estimate", "speculation"} <= set(plan)
    refused = cli("plan", "--device", "iphone-15-pro", "--model", "llama-3.3-70b", "--json")
    assert refused.code == 3
    listed = json.loads(refused.out)["rejected"]
    assert {one["kind"] for one in listed} == {"unavailable", "memory"}
    assert all((one["over_bytes"] > 10**9) == (one["kind"] == "memory") for one in listed)
    assert "MB more than" in refused.err


def test_a_refusal_is_an_object_under_json(cli: Cli) -> None:
    for argv in (
        ["plan", "--json", "--model", "nonsense"],
        ["show", "nonsense", "--json"],
        ["plan", "--json", "--bogus"],
    ):
        ran = cli(*argv)
        said = json.loads(ran.out)
        assert ran.code == said["exit_code"] == 2
        assert ran.err.startswith(f"error: {said['error']}")
        assert said["hint"]


def test_devices_and_device_exclude_each_other(cli: Cli) -> None:
    ran = cli("plan", "--devices", "--device", "iphone-15-pro")
    assert (ran.code, ran.out) == (2, "")
    assert "--devices" in ran.err


def test_memory_is_reserved_for_a_draft_model_at_a_path(cli: Cli, on_tiny: list[str], tmp_path: Path) -> None:
    """Its file may have the same name as the target's."""
    alone = ("--model", "demo", "--device", "macbook-air-m1-8gb", "--json")
    draft = write_tiny(tmp_path / "demo.gguf", Tiny())
    plain = json.loads(cli("plan", *alone).out)
    plan = json.loads(cli("plan", *alone, "--draft-model", str(draft)).out)
    assert plan["model"]["name"] == "demo"
    assert plan["artifact"] == plain["artifact"]
    more = plan["estimate"]["total_bytes"] - plain["estimate"]["total_bytes"]
    assert more == plan["estimate"]["draft_bytes"] >= draft.stat().st_size * 0.9


def test_devices_are_listed(cli: Cli) -> None:
    assert "macbook-air-m1-8gb" in cli("plan", "--devices").out
    assert "iphone-15-pro" in {row["slug"] for row in json.loads(cli("plan", "--devices", "--json").out)}


def test_doctor_says_what_each_backend_found(cli: Cli) -> None:
    ran = cli("doctor", "--json")
    facts = json.loads(ran.out)
    assert {backend["name"] for backend in facts["backends"]} == {"gguf", "mlx", "executorch", "reference"}
    for backend in facts["backends"]:
        assert backend["available"] or backend["unavailable"]
        assert backend["versions"] or backend["hint"]
    text = cli("doctor").out
    assert "memory" in text
    assert ".cache/huggingface/hub" in text


def test_list_shows_local_models_and_the_catalog(cli: Cli) -> None:
    assert {"name": "demo", "tier": "Q4_0"}.items() <= json.loads(cli("list", "--json").out)[0].items()
    names = {row["name"] for row in json.loads(cli("list", "--catalog", "--json").out)}
    assert {"demo", "qwen3-4b", "llama-3.2-1b"} <= names
    assert cli("ls").out == cli("list").out


def test_show_describes_a_model(cli: Cli, tiny: Path) -> None:
    facts = json.loads(cli("show", "demo", "--verify", "--json").out)
    (file,) = facts["files"]
    assert facts["exit_layer"] == 3
    assert file["verified"]
    assert file["sha256"].startswith("sha256:")
    assert "<|im_start|>" in file["template"]
    text = cli("show", str(tiny)).out
    assert "early exit  after layer 2" in text
    assert "ChatML" not in text


def test_a_note_says_when_a_prompt_exceeds_the_window(cli: Cli, on_tiny: list[str]) -> None:
    ran = cli("run", *on_tiny, "the rain " * 400)
    assert ran.err.count("(the window of 512 tokens is full: ") == 1
    assert "is full" not in cli("run", *on_tiny, "the rain").err


def test_a_file_is_only_verified_against_something(cli: Cli, tiny: Path) -> None:
    (file,) = json.loads(cli("show", str(tiny), "--verify", "--json").out)["files"]
    assert file["verified"] is False
    assert file["sha256"].startswith("sha256:")
    text = cli("show", str(tiny), "--verify").out
    assert f"{file['sha256']}, read whole; no digest is published to compare it with" in text


def test_a_local_file_can_be_added_to_the_catalog(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    added = cli("models", "add", str(tiny), "--name", "mine")
    assert (added.code, added.out) == (0, "mine\n")
    mine = tmp_path / ".config" / "edgeinfer" / "models.toml"
    assert 'name = "mine"' in mine.read_text()
    assert "mine" in {row["name"] for row in json.loads(cli("list", "--catalog", "--json").out)}
    ran = cli("run", "--backend", "reference", "--min-speed", "0.001", "--temp", "0", "-n", "3", "mine", "the rain")
    assert ran.code == 0
    again = cli("models", "add", str(tiny), "--name", "mine")
    assert again.code == 2
    assert "there is a model called mine already" in again.err


def test_a_note_says_when_a_model_is_below_the_wanted_speed(cli: Cli, on_tiny: list[str]) -> None:
    ran = cli("run", *on_tiny, "--min-speed", "1000000", "the rain")
    assert ran.code == 0
    assert ran.err.count("slow: about ") == 1
    assert "slow:" not in cli("run", *on_tiny, "the rain").err


def test_no_color_in_a_pipe(cli: Cli, on_tiny: list[str]) -> None:
    ran = cli("run", *on_tiny, "--stats", "the rain")
    assert "\033" not in ran.out + ran.err


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_help_names_the_first_command_to_try(cli: Cli, flag: str) -> None:
    ran = cli(flag)
    assert ran.code == 0
    assert "edgeinfer chat --model demo" in ran.out
    assert cli().out == ran.out
