"""The public API on one page: choose, open, stream, count.

python docs/example.py [MODEL]
"""

import sys

import edgeinfer


def main(model: str = "demo") -> None:
    # What would be opened, and why; nothing is loaded and nothing is asked of the network.
    plan = edgeinfer.choose(edgeinfer.Request(model=model, context=1024))
    print(f"{plan.model.title}, {plan.artifact.tier} on {plan.backend}: {plan.estimate.total_bytes / 1e6:.0f} MB")

    # A session is one conversation: it keeps what it has already run.
    with edgeinfer.open(plan) as session:
        greedy = edgeinfer.Sampling(temperature=0.0)
        messages = [edgeinfer.Message("system", "You are brief."), edgeinfer.Message("user", "Hi, who are you?")]
        answer = ""
        for text in session.stream(messages, sampling=greedy, max_tokens=40):
            print(text, end="", flush=True)
            answer += text
        print()

        messages += [edgeinfer.Message("assistant", answer), edgeinfer.Message("user", "What can you do?")]
        print("".join(session.stream(messages, sampling=greedy, max_tokens=40)))
        stats = session.stats
        print(f"{stats.reused} of {stats.prompt} prompt tokens were already there; {stats.emitted} new ones")

    # Every refusal is one clear line, with what to do about it.
    try:
        edgeinfer.choose("llama-3.2-8b")
    except edgeinfer.EdgeInferError as error:
        print(f"refused: {error} ({error.hint})")


if __name__ == "__main__":
    main(*sys.argv[1:])
