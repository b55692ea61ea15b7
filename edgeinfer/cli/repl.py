"""The interactive chat: reads messages and slash commands, prints answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.chat import history
from edgeinfer.cli import settings as settings_module
from edgeinfer.cli.lines import LineSource, messages
from edgeinfer.cli.output import complain, near, say, size, whisper
from edgeinfer.cli.settings import Settings
from edgeinfer.cli.stats_lines import stats_lines
from edgeinfer.cli.streaming import print_answer, say_what_happened, window_news
from edgeinfer.errors import EdgeInferError, UsageError

if TYPE_CHECKING:
    from edgeinfer.decode.stats import AnswerStats
    from edgeinfer.plan import Plan
    from edgeinfer.runner.chat import Chat

HELP = """\
  /help              this list
  /clear             forget the conversation; the system prompt stays
  /show              the model and the settings; `/show stats` the last answer's counts
  /set NAME VALUE    change a setting; `/set` alone shows them all
  /save FILE         write the conversation
  /load FILE         continue a saved conversation
  /bye               leave; so does Ctrl-D, or Ctrl-C twice
  \"\"\"                begins a message of many lines, and ends it"""


@dataclass
class Repl:
    """A chat in the command line."""

    plan: Plan
    chat: Chat
    settings: Settings
    warned: set[str] = field(default_factory=set)  # notices that are shown once
    leaving: bool = False
    exit_code: int = 0

    def run(self, source: LineSource) -> int:
        """Run until the user leaves. In a script, the exit code is that of the last message that failed."""
        interrupted = False
        while not self.leaving:
            try:
                for text in messages(source):
                    interrupted = False
                    self.take(text)
                    if self.leaving:
                        break
                else:
                    break
            except EdgeInferError as error:  # the conversation can still be saved
                complain(str(error), error.hint)
                self.exit_code = 0 if source.interactive else error.exit_code
            except KeyboardInterrupt:
                if interrupted:
                    break
                interrupted = True
                whisper("(Ctrl-C again, Ctrl-D or /bye leaves)")
        return self.exit_code

    def take(self, text: str) -> None:
        """Handle one message or command. Raises UsageError for one that cannot be handled; the chat continues."""
        if text.startswith("/") and not re.match(r"/\S*/", text):  # a path is a message, not a command
            self.command(*text[1:].split(None, 1))
        else:
            self.ask(text)

    def ask(self, text: str) -> None:
        self.chat.system = self.settings.system
        try:
            answer = print_answer(lambda: self.chat.stream(text, **self.settings.options), self.settings)
        except KeyboardInterrupt:  # the second one
            self.leaving = True
            return
        if answer.finish_reason == "canceled":
            whisper("(stopped)")
        self.warn(answer.stats)
        say_what_happened(answer.stats, self.settings)

    def warn(self, stats: AnswerStats) -> None:
        """Say once that the window is full, and what that means."""
        for count, news in window_news(stats, self.plan.window).items():
            if count not in self.warned:
                self.warned.add(count)
                whisper(news)

    def command(self, name: str = "", rest: str = "") -> None:
        if name not in COMMANDS:
            known = [f"/{command}" for command in COMMANDS]
            raise UsageError(f"there is no command `/{name}`", hint=near(f"/{name}", known) or "/help lists them")
        COMMANDS[name](self, rest.strip())

    def help(self, rest: str) -> None:
        del rest
        say(HELP)

    def clear(self, rest: str) -> None:
        del rest
        self.chat.messages = []
        self.warned.clear()
        whisper("(a new conversation)")

    def show(self, rest: str) -> None:
        if rest == "stats":
            if self.chat.answer is None:
                raise UsageError("there is no answer yet")
            for line in stats_lines(self.chat.answer.stats):
                say(f"  {line}")
            return
        if rest:
            raise UsageError(f"/show does not know `{rest}`", hint="`/show` or `/show stats`")
        plan = self.plan
        say(f"  model           {plan.model.title} ({plan.model.name}), {plan.model.license}")
        say(f"  file            {plan.artifact.tier}, {size(plan.artifact.n_bytes)}, on {plan.backend}")
        window = plan.window
        say(f"  context         {window.slots} tokens: {window.sink} from the start, {window.window} recent")
        say(f"  K/V             {plan.kv_type}, {size(plan.estimate.kv_bytes)}")
        say(f"  speculation     {', '.join(plan.speculation.drafters) or 'off'}")
        say(f"  conversation    {len(self.chat.turns)} messages")
        say("\n".join(settings_module.lines(self.settings)))

    def set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if not name:
            say("\n".join(settings_module.lines(self.settings)))
            return
        self.settings = settings_module.changed(self.settings, name, value.strip())

    def save(self, rest: str) -> None:
        file = named_file(rest, "/save")
        self.chat.system = self.settings.system
        history.save(file, self.chat.messages, model=self.plan.model.name)
        whisper(f"(saved {len(self.chat.turns)} messages to {file})")

    def load(self, rest: str) -> None:
        self.chat.messages = history.load(named_file(rest, "/load"))
        self.settings = replace(self.settings, system=self.chat.system)
        whisper(f"(loaded {len(self.chat.turns)} messages)")

    def bye(self, rest: str) -> None:
        del rest
        self.leaving = True


COMMANDS: Mapping[str, Callable[[Repl, str], None]] = {
    "help": Repl.help,
    "clear": Repl.clear,
    "show": Repl.show,
    "set": Repl.set,
    "save": Repl.save,
    "load": Repl.load,
    "bye": Repl.bye,
}


def named_file(rest: str, command: str) -> Path:
    if not rest:
        raise UsageError(f"{command} needs a file", hint=f"{command} chat.json")
    return Path(rest).expanduser()
