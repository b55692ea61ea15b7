"""The interactive chat: reads messages and slash commands, prints answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.chat import history
from edgeinfer.chat.history import SavedChat
from edgeinfer.cli import settings as settings_module
from edgeinfer.cli.autosave import Autosave, remove
from edgeinfer.cli.lines import LineSource, messages
from edgeinfer.cli.output import complain, near, say, size, whisper
from edgeinfer.cli.settings import Settings
from edgeinfer.cli.stats_lines import stats_lines
from edgeinfer.cli.streaming import print_answer, say_what_happened, window_news
from edgeinfer.cli.tool_lines import tool_lines
from edgeinfer.errors import EdgeInferError, UsageError
from edgeinfer.text import one_line
from edgeinfer.types import Message

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
  /restore           continue the last chat that was cut off
  /retry             ask the last question again, if it got no answer
  /bye               leave; so does Ctrl-D, or Ctrl-C twice
  \"\"\"                starts and ends a message of several lines"""


@dataclass
class Repl:
    """A chat in the command line."""

    plan: Plan
    chat: Chat
    settings: Settings
    autosave: Autosave
    unanswered: str = ""  # the last question, until its answer begins
    warned: set[str] = field(default_factory=set)  # notices that are shown once
    leaving: bool = False
    cut_off: bool = False  # the chat ended, but not by leaving it
    exit_code: int = 0

    def run(self, source: LineSource) -> int:
        """Run until the user leaves. In a script, the exit code is that of the last message that failed.

        If the chat ends in any other way, the conversation stays on disk.
        """
        if source.interactive:
            self.offer()
        try:
            self.converse(source)
            if not self.cut_off:
                self.autosave.discard()
        except BrokenPipeError:
            self.autosave.discard()  # the reader has left
            raise
        except BaseException:
            self.cut_off = True
            raise
        finally:
            if self.cut_off and self.autosave.write(self.saved):
                whisper("(the conversation is kept: /restore in the next chat continues it)")
            self.autosave.close()
        return self.exit_code

    def converse(self, source: LineSource) -> None:
        interrupted = False
        while not self.leaving:
            try:
                text = next(messages(source), None)
                if text is None:
                    return
                interrupted = False
                self.take(text)
            except EdgeInferError as error:  # the conversation can still be saved
                complain(str(error), error.hint)
                self.exit_code = 0 if source.interactive else error.exit_code
            except KeyboardInterrupt:
                if interrupted:
                    return
                interrupted = True
                whisper("(Ctrl-C again, Ctrl-D or /bye leaves)")

    def take(self, text: str) -> None:
        """Handle one message or command. Raises EdgeInferError for whatever goes wrong in it, and BrokenPipeError."""
        try:
            if text.startswith("/") and not re.match(r"/\S*/", text):  # a path is a message, not a command
                self.command(*text[1:].split(None, 1))
            else:
                self.ask(text)
        except (EdgeInferError, BrokenPipeError):
            raise
        except Exception as error:
            message = f"unexpected {type(error).__name__}: {error}"
            raise EdgeInferError(message, hint="/save FILE keeps the conversation") from error

    def ask(self, text: str) -> None:
        self.chat.system = self.settings.system
        n_turns = len(self.chat.turns)
        self.unanswered = text
        self.autosave.write(self.saved)
        try:
            answer = print_answer(
                lambda: self.chat.stream(text, **self.settings.options),
                self.settings,
                progress=lambda stream: self.autosave.write_if_due(lambda: self.saved_with(stream.answer.text)),
            )
        except KeyboardInterrupt:  # the second one
            self.leaving = self.cut_off = True
            return
        finally:
            if len(self.chat.turns) > n_turns:
                self.unanswered = ""
                self.autosave.write(self.saved)
        if answer.finish_reason == "canceled":
            whisper("(stopped)")
        self.warn(answer.stats)
        say_what_happened(answer.stats, self.settings)

    def warn(self, stats: AnswerStats) -> None:
        """Say once that the window is full, and what the template does with the conversation."""
        template_news = {notice: f"({notice})" for notice in self.chat.notices}
        for count, news in {**window_news(stats, self.plan.window), **template_news}.items():
            if count not in self.warned:
                self.warned.add(count)
                whisper(news)

    @property
    def saved(self) -> SavedChat:
        """The conversation with the question that waits for its answer."""
        return self.saved_with("")

    def saved_with(self, answer: str) -> SavedChat:
        question = [Message("user", self.unanswered)] if self.unanswered else []
        begun = [Message("assistant", answer)] if answer else []
        messages = [*self.chat.messages, *question, *begun]
        return SavedChat(messages, self.plan.model.name, settings_module.texts(self.settings))

    def offer(self) -> None:
        """Say that an earlier chat was cut off."""
        if self.autosave.left_behind():
            whisper("(an earlier chat was cut off: /restore continues it)")

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
        self.unanswered = ""
        self.warned.clear()
        self.autosave.discard()
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
        if history.is_of_another_kind(file):
            raise UsageError(f"`{file}` exists and is not a saved conversation", hint="name another file")
        saved = self.saved
        history.save(file, saved)
        whisper(f"(saved {n_said(saved)} messages to {file})")

    def load(self, rest: str) -> None:
        self.continue_with(history.load(named_file(rest, "/load"), whisper))

    def restore(self, rest: str) -> None:
        del rest
        file = self.autosave.left_behind()
        if file is None:
            raise UsageError("no chat was cut off", hint="/load FILE continues one that was saved")
        self.continue_with(history.load(file))
        self.autosave.write(self.saved)
        remove(file)

    def continue_with(self, saved: SavedChat) -> None:
        """Continue a saved conversation, and say which settings differ."""
        messages = list(saved.messages)
        self.unanswered = messages.pop().content if messages and messages[-1].role == "user" else ""
        self.chat.messages = messages
        self.settings = replace(self.settings, system=self.chat.system)
        whisper(f"(loaded {n_said(saved)} messages)")
        for line in tool_lines(messages):
            whisper(f"(called {line})")
        if saved.model != self.plan.model.name:
            whisper(f"(they were written with {one_line(saved.model)[:80]}; this is {self.plan.model.name})")
        differences = settings_module.differences(self.settings, saved.settings)
        if differences:
            whisper(f"(settings that differ: {one_line('; '.join(differences))[:400]})")
        if self.unanswered:
            whisper("(the last question has no answer: /retry asks it again)")

    def retry(self, rest: str) -> None:
        del rest
        if not self.unanswered:
            raise UsageError("every question has an answer")
        self.ask(self.unanswered)

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
    "restore": Repl.restore,
    "retry": Repl.retry,
    "bye": Repl.bye,
}


def n_said(saved: SavedChat) -> int:
    """Messages without the system prompt."""
    return sum(message.role != "system" for message in saved.messages)


def named_file(rest: str, command: str) -> Path:
    if not rest:
        raise UsageError(f"{command} needs a file", hint=f"{command} chat.json")
    try:
        return Path(re.sub(r"^(['\"])(.+)\1$", r"\2", rest)).expanduser()  # as a shell would take it
    except RuntimeError:
        raise UsageError(f"the home folder in `{rest}` is not known", hint="write the whole path") from None
